//! `GET /`: the status page, one HTML file that loads nothing but the events of the service.

use std::borrow::Cow;

use axum::extract::OriginalUri;
use axum::http::header;
use axum::response::{IntoResponse, Response};

/// The page.
const PAGE: &str = include_str!("page/index.html");

/// The Content-Security-Policy of the page: it may load only itself and connect only to its own server.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /`.
pub(crate) async fn page(OriginalUri(uri): OriginalUri) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, page_at(uri.path())).into_response()
}

/// The page for a browser that found it at `path`. The links of the page are relative. If the page is served under a prefix
/// without a slash at its end (`/indexer`), its links must begin with the last segment of the prefix.
fn page_at(path: &str) -> Cow<'static, str> {
    const LINKS: [&str; 4] = ["v1/status", "v1/events", "metrics", "readyz?verbose"];
    let segment = path.rsplit('/').next().unwrap_or_default();
    // Any other character could have a meaning in HTML or in the script. Such a path gets the page unchanged.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    if segment.is_empty() || !segment.bytes().all(is_plain) {
        return Cow::Borrowed(PAGE);
    }
    let linked =
        |page: String, link: &str| page.replace(&format!("\"{link}\""), &format!("\"{segment}/{link}\""));
    Cow::Owned(LINKS.into_iter().fold(PAGE.to_owned(), linked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_links_of_the_page_work_under_a_prefix() {
        for path in ["/", "/indexer/", "", "/\"><script>"] {
            assert_eq!(page_at(path), PAGE, "{path}");
        }
        let nested = page_at("/service/indexer");
        for link in ["v1/status", "v1/events", "metrics", "readyz?verbose"] {
            assert!(PAGE.contains(&format!("\"{link}\"")), "{link}");
            assert!(nested.contains(&format!("\"indexer/{link}\"")), "{link}");
            assert!(!nested.contains(&format!("\"{link}\"")), "{link}");
        }
    }
}
