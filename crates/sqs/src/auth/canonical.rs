//! The canonical request of Signature Version 4, which client and server must write alike to the byte.

use http::request::Parts;

/// Method, path, query, headers, names of the headers and hash of the body, each in its canonical form.
/// `None` if a signed header is not there.
pub(super) fn request(head: &Parts, signed: &str, without: Option<&str>, payload: &str) -> Option<String> {
    let mut out = String::with_capacity(1_024);
    out.extend([head.method.as_str(), "\n"]);
    path(&mut out, head.uri.path());
    out.push('\n');
    query(&mut out, head.uri.query().unwrap_or_default(), without);
    out.push('\n');
    for name in signed.split(';') {
        header(&mut out, head, name)?;
    }
    out.extend(["\n", signed, "\n", payload]);
    Some(out)
}

/// Without empty and dotted segments, encoded once more than it came: so for all services but S3.
fn path(out: &mut String, path: &str) {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name),
        }
    }
    for segment in &segments {
        out.push('/');
        encode(out, segment);
    }
    if segments.is_empty() || path.ends_with('/') {
        out.push('/');
    }
}

/// Decoded, encoded alike and sorted. `without` is the parameter that holds the signature itself.
fn query(out: &mut String, query: &str, without: Option<&str>) {
    let pairs = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| Some(name.as_ref()) != without);
    let mut pairs: Vec<(String, String)> = pairs.map(|(name, value)| (encoded(&name), encoded(&value))).collect();
    pairs.sort_unstable();
    for (n, (name, value)) in pairs.iter().enumerate() {
        out.extend([if n == 0 { "" } else { "&" }, name, "=", value]);
    }
}

/// Values without blanks at their ends and with single ones inside; several headers of a name are one.
fn header(out: &mut String, head: &Parts, name: &str) -> Option<()> {
    out.extend([name, ":"]);
    let mut found = false;
    for value in head.headers.get_all(name) {
        let value = value.to_str().ok()?;
        out.push_str(if found { "," } else { "" });
        for (n, word) in value.split_ascii_whitespace().enumerate() {
            out.extend([if n == 0 { "" } else { " " }, word]);
        }
        found = true;
    }
    if !found {
        // HTTP/2 has the host in the target of the request.
        let authority = head.uri.authority().filter(|_| name == "host")?;
        out.push_str(authority.as_str());
    }
    out.push('\n');
    Some(())
}

fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    encode(&mut out, text);
    out
}

/// All but the unreserved characters of RFC 3986 as `%XX`.
fn encode(out: &mut String, text: &str) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(f: impl FnOnce(&mut String)) -> String {
        let mut out = String::new();
        f(&mut out);
        out
    }

    #[test]
    fn paths() {
        for (from, to) in [
            ("", "/"),
            ("/", "/"),
            ("//", "/"),
            ("/./foo", "/foo"),
            ("/foo/bar/../..", "/"),
            ("/foo//bar/", "/foo/bar/"),
            ("/a%20b", "/a%2520b"),
            ("/123/q.fifo", "/123/q.fifo"),
            ("/../x", "/x"),
        ] {
            assert_eq!(made(|out| path(out, from)), to, "{from}");
        }
    }

    #[test]
    fn queries() {
        for (from, to) in [
            ("", ""),
            ("b=2&a=1&a=0", "a=0&a=1&b=2"),
            ("empty", "empty="),
            ("x=a%2fb+c", "x=a%2Fb%20c"),
            ("X-Amz-Signature=1&a=%7e", "a=~"),
        ] {
            assert_eq!(made(|out| query(out, from, Some("X-Amz-Signature"))), to, "{from}");
        }
    }

    #[test]
    fn headers_are_folded() {
        let request = http::Request::builder().uri("http://there/").header("a", "  x   y ").header("a", "z");
        let head = request.body(()).unwrap().into_parts().0;
        assert_eq!(made(|out| assert!(header(out, &head, "a").is_some())), "a:x y,z\n");
        assert_eq!(made(|out| assert!(header(out, &head, "host").is_some())), "host:there\n");
        assert_eq!(super::request(&head, "a;b", None, ""), None);
    }
}
