//! Binary search for the first height at which two chains of digests differ.
//!
//! A digest covers every block up to its height. Once two chains differ, they therefore differ at every later height, and the
//! first such height can be found by binary search.

/// The result of the comparison at one height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// The digests are equal, and so are all digests below this height.
    Same,
    /// The digests differ, and so do all digests above this height.
    Different,
    /// The digests cannot be compared, because one chain begins only at this height, above the probed height.
    Before(u32),
}

/// The first height at which two chains differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstDifference {
    /// The first height at which the chains differ. Only heights that can be compared count.
    pub height: u32,
    /// The first height that can be compared. If it equals `height`, the chains agree at no height that was compared.
    pub floor: u32,
}

/// Searches `floor..=top` for the first height at which two chains differ. The caller knows that they differ at `top`; `probe`
/// is not called for `top`.
///
/// For n heights, `probe` is called at most ⌈log2(n)⌉ times, and never twice for one height.
///
/// # Errors
/// The first error of `probe`.
pub fn first_different<E>(
    floor: u32,
    top: u32,
    mut probe: impl FnMut(u32) -> Result<Probe, E>,
) -> Result<FirstDifference, E> {
    // Invariant: the chains differ at `high`, and below `low` they agree or cannot be compared.
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
    Ok(FirstDifference { height: high, floor })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// Searches chains that differ from `at` on and begin at `start`. Also returns the heights that were probed.
    fn search(floor: u32, top: u32, start: u32, at: u32) -> (FirstDifference, Vec<u32>) {
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
                assert_eq!(found, FirstDifference { height: at, floor: 0 }, "of 0..={top}");
                assert!(asked.len() <= most_calls(0, top) as usize, "{asked:?} of 0..={top}");
            }
        }
    }

    #[test]
    fn a_range_of_one_height_is_not_probed() {
        assert_eq!(search(7, 7, 0, 0), (FirstDifference { height: 7, floor: 7 }, vec![]));
    }

    #[test]
    fn a_later_start_raises_the_floor() {
        let (found, _) = search(0, 1000, 900, 900);
        assert_eq!(found, FirstDifference { height: 900, floor: 900 });
        let (found, _) = search(0, 1000, 600, 950);
        assert_eq!(found, FirstDifference { height: 950, floor: 600 });
        // A start that no probe meets does not show.
        let (found, _) = search(0, 1000, 300, 950);
        assert_eq!(found, FirstDifference { height: 950, floor: 0 });
        // The search ends even if a chain names an impossible start.
        let odd = first_different::<Infallible>(0, 1000, |_| Ok(Probe::Before(0))).unwrap();
        assert_eq!(odd.height, 1000);
        let odd = first_different::<Infallible>(0, 1000, |_| Ok(Probe::Before(u32::MAX))).unwrap();
        assert_eq!(odd, FirstDifference { height: 1000, floor: 1000 });
    }

    #[test]
    fn an_error_ends_the_search() {
        assert_eq!(first_different(0, 9, Err), Err(4));
    }

    proptest! {
        #[test]
        fn the_first_difference_is_found_anywhere_in_few_probes(
            mut heights in prop::array::uniform3(any::<u32>()),
            share in 0.0..1.0f64,
        ) {
            heights.sort_unstable();
            let [floor, at, top] = heights;
            let (found, asked) = search(floor, top, floor, at);
            prop_assert_eq!(found, FirstDifference { height: at, floor });
            prop_assert!(asked.len() <= most_calls(floor, top) as usize);
            prop_assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), asked.len());
            prop_assert!(asked.iter().all(|height| (floor..top).contains(height)));
            // The same, with a chain that begins somewhere below the first difference.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a u32 is one")]
            let start = floor + (f64::from(at - floor) * share) as u32;
            let (found, asked) = search(floor, top, start, at);
            prop_assert_eq!(found.height, at);
            prop_assert!(found.floor == floor || found.floor == start);
            prop_assert!(asked.len() <= most_calls(floor, top) as usize);
        }
    }
}
