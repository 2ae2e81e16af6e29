//! The address of a node, parsed from a URL that may hold a name and a password.

use cofferdam_base::Secret;
use percent_encoding::percent_decode_str;
use ureq::http::Uri;

use super::auth::Auth;

/// The address of a node, and how to authenticate there.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(super) uri: Uri,
    pub(super) auth: Auth,
    /// The URL without name and password, for messages and logs.
    pub(crate) display_url: String,
}

impl Endpoint {
    /// Parses a URL. The name and the password in the URL count only if `auth` has none.
    ///
    /// The error says what is wrong with the URL. It repeats no part of the URL: until the URL is understood, any part of it
    /// may be the password.
    pub(crate) fn parse(url: &str, auth: &Auth) -> Result<Self, String> {
        let (user_info, rest) = cut_user_info(url)?;
        let uri: Uri = rest.parse().map_err(|error| format!("it is not a URL ({error})"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(
                    "Cofferdam does not speak TLS; put a proxy or a tunnel in front of the node".to_owned()
                );
            }
            _ => return Err("it does not begin with http://".to_owned()),
        }
        if uri.host().is_none_or(str::is_empty) {
            return Err("it names no host".to_owned());
        }
        // The library would notice a wrong port only when a request is sent.
        let has_port =
            uri.authority().is_some_and(|authority| !authority.as_str().ends_with(authority.host()));
        if has_port && uri.port_u16().is_none_or(|port| port == 0) {
            return Err("its port is not a number from 1 to 65535".to_owned());
        }
        let auth = match (auth, user_info) {
            (Auth::None, Some((user, password))) => Auth::UserPass { user, password },
            _ => auth.clone(),
        };
        Ok(Self { uri, auth, display_url: rest.trim_end_matches('/').to_owned() })
    }
}

/// The name and the password before the `@` of a URL.
type UserInfo = (String, Secret);

/// Cuts `user:password@` out of a URL.
fn cut_user_info(url: &str) -> Result<(Option<UserInfo>, String), &'static str> {
    let Some((scheme, rest)) = url.split_once("://") else { return Err("it does not begin with http://") };
    // The first of these characters ends the authority (RFC 3986, section 3.2), and with it the name and the password.
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if path.contains('@') {
        return Err(
            "it has an @ after a /, ? or #. In a name or a password write / as %2F, ? as %3F, # as %23 and @ as %40; in a \
             path write @ as %40",
        );
    }
    let Some((user_info, host)) = authority.rsplit_once('@') else { return Ok((None, url.to_owned())) };
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    let decode = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
    Ok((Some((decode(user), decode(password).into())), format!("{scheme}://{host}{path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Result<Endpoint, String> {
        Endpoint::parse(url, &Auth::None)
    }

    #[test]
    fn a_url_may_carry_name_and_password_which_are_never_shown() {
        let found = endpoint("http://alice:p%40ss%2Fy:w@127.0.0.1:8332/").unwrap();
        let expected = Auth::UserPass { user: "alice".to_owned(), password: "p@ss/y:w".into() };
        assert_eq!(found.auth, expected);
        assert_eq!(found.display_url, "http://127.0.0.1:8332");
        assert!(!format!("{found:?}").contains("ss/y"), "{found:?}");
        let given = Auth::UserPass { user: "bob".to_owned(), password: "b".into() };
        assert_eq!(Endpoint::parse("http://alice:a@host:1", &given).unwrap().auth, given);
        // The last @ ends the password.
        let found = endpoint("http://alice:p@ss@host:1/wallet").unwrap();
        assert_eq!(found.auth, Auth::UserPass { user: "alice".to_owned(), password: "p@ss".into() });
        assert_eq!(found.display_url, "http://host:1/wallet");
    }

    #[test]
    fn a_wrong_url_is_refused_without_being_repeated() {
        for (url, word) in [
            ("https://alice:secret@host:8332", "TLS"),
            ("host:8332", "http://"),
            ("alice:secret@host:8332", "http://"),
            ("http:/alice:secret@host:8332", "http://"),
            ("ftp://alice:secret@host", "http://"),
            ("http://", "not a URL"),
            ("http://alice:secret@ho st:1", "not a URL"),
            ("http://alice:se/cret@host:1", "%2F"),
            ("http://alice:se?cret@host:1", "%3F"),
            ("http://alice:se#cret@host:1", "%23"),
            ("http://alice:s@e/cret@host:1", "%2F"),
            ("http://alice:secret@", "no"),
            ("http://alice:secret@host:99999", "port"),
            ("http://alice:secret@host:x", "port"),
            ("http://alice:secret@host:", "port"),
        ] {
            let reason = endpoint(url).unwrap_err();
            assert!(reason.contains(word), "{reason}");
            assert!(!reason.contains("cret") && !reason.contains("alice"), "{reason}");
        }
    }
}
