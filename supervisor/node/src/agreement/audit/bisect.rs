//! The first height at which two chains of digests part.
//!
//! A digest covers everything before it: once two chains have parted they never agree again, so that the height can be
//! searched for by halves.

/// What was found out about one height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// The digests agree, and so do all before them.
    Same,
    /// They differ, and so do all behind them.
    Different,
    /// They cannot be compared: one side begins at this height only.
    Before(u32),
}

/// Where two chains part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parting {
    /// The first height at which they differ, of those that can be compared.
    pub height: u32,
    /// The first height that can be compared. If it is the same as `height`, nothing was seen to agree.
    pub floor: u32,
}

/// Searches `floor..=top` for the first height at which two chains differ. That they do at `top` is known; it is not asked
/// again.
///
/// `probe` is called ⌈log2(n)⌉ times at most, for n heights, and for no height twice.
///
/// # Errors
/// Those of `probe`.
pub fn first_different<E>(
    floor: u32,
    top: u32,
    mut probe: impl FnMut(u32) -> Result<Probe, E>,
) -> Result<Parting, E> {
    // `high` differs; below `low`, everything agrees or cannot be compared.
    let (mut floor, mut low, mut high) = (floor, floor, top);
    while low < high {
        let middle = low + (high - low) / 2;
        match probe(middle)? {
            Probe::Same => low = middle + 1,
            Probe::Different => high = middle,
            Probe::Before(start) => {
                low = start.clamp(middle + 1, high);
                floor = low;
            }
        }
    }
    Ok(Parting { height: high, floor })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// Searches chains that part at `at` and begin at `start`; the calls are returned, too.
    fn search(floor: u32, top: u32, start: u32, at: u32) -> (Parting, Vec<u32>) {
        let mut asked = Vec::new();
        let found = first_different::<Infallible>(floor, top, |height| {
            asked.push(height);
            Ok(match height {
                _ if height < start => Probe::Before(start),
                _ if height < at => Probe::Same,
                _ => Probe::Different,
            })
        });
        (found.unwrap(), asked)
    }

    fn most_calls(floor: u32, top: u32) -> u32 {
        (u64::from(top - floor) + 1).next_power_of_two().ilog2()
    }

    #[test]
    fn every_position_is_found_in_every_short_range() {
        for top in 0..70 {
            for at in 0..=top {
                let (found, asked) = search(0, top, 0, at);
                assert_eq!(found, Parting { height: at, floor: 0 }, "of 0..={top}");
                assert!(asked.len() <= most_calls(0, top) as usize, "{asked:?} of 0..={top}");
            }
        }
    }

    #[test]
    fn a_range_of_one_height_asks_nothing() {
        assert_eq!(search(7, 7, 0, 0), (Parting { height: 7, floor: 7 }, vec![]));
    }

    #[test]
    fn what_begins_later_raises_the_floor() {
        let (found, _) = search(0, 1000, 900, 900);
        assert_eq!(found, Parting { height: 900, floor: 900 });
        let (found, _) = search(0, 1000, 600, 950);
        assert_eq!(found, Parting { height: 950, floor: 600 });
        // It does not show where it is not asked for.
        let (found, _) = search(0, 1000, 300, 950);
        assert_eq!(found, Parting { height: 950, floor: 0 });
        // A side that names a start which makes no sense does not keep the search from ending.
        let odd = first_different::<Infallible>(0, 1000, |_| Ok(Probe::Before(0))).unwrap();
        assert_eq!(odd.height, 1000);
        let odd = first_different::<Infallible>(0, 1000, |_| Ok(Probe::Before(u32::MAX))).unwrap();
        assert_eq!(odd, Parting { height: 1000, floor: 1000 });
    }

    #[test]
    fn an_error_ends_the_search() {
        assert_eq!(first_different(0, 9, Err), Err(4));
    }

    proptest! {
        #[test]
        fn it_is_found_wherever_it_is_and_soon(
            mut heights in prop::array::uniform3(any::<u32>()),
            share in 0.0..1.0f64,
        ) {
            heights.sort_unstable();
            let [floor, at, top] = heights;
            let (found, asked) = search(floor, top, floor, at);
            prop_assert_eq!(found, Parting { height: at, floor });
            prop_assert!(asked.len() <= most_calls(floor, top) as usize);
            prop_assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), asked.len());
            prop_assert!(asked.iter().all(|height| (floor..top).contains(height)));
            // The same with a side that begins somewhere before they part.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a u32 is one")]
            let start = floor + (f64::from(at - floor) * share) as u32;
            let (found, asked) = search(floor, top, start, at);
            prop_assert_eq!(found.height, at);
            prop_assert!(found.floor == floor || found.floor == start);
            prop_assert!(asked.len() <= most_calls(floor, top) as usize);
        }
    }
}
