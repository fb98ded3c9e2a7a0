//! `{port}` and its like: what stands for the values of an instance in commands and plain values.

use std::net::IpAddr;

use holdfast_policy::InstanceId;

/// The names that [`Placeholders::expand`] knows.
pub const PLACEHOLDERS: [&str; 5] = ["port", "host", "service", "instance", "ordinal"];

#[derive(Clone, Debug)]
pub struct Placeholders {
    pub instance: InstanceId,
    pub host: IpAddr,
    /// `{port}` stays as it is where there is none.
    pub port: Option<u16>,
}

impl Placeholders {
    /// Replaces every known `{name}` in one pass; other braces stay, so that JSON in an argument survives.
    pub fn expand(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let (before, from) = rest.split_at(open);
            out.push_str(before);
            let known = from[1..].split_once('}').and_then(|(name, after)| Some((self.value(name)?, after)));
            match known {
                Some((value, after)) => {
                    out.push_str(&value);
                    rest = after;
                }
                None => {
                    out.push('{');
                    rest = &from[1..];
                }
            }
        }
        out + rest
    }

    pub fn expand_all(&self, words: &[String]) -> Vec<String> {
        words.iter().map(|word| self.expand(word)).collect()
    }

    fn value(&self, name: &str) -> Option<String> {
        match name {
            "port" => self.port.map(|p| p.to_string()),
            "host" => Some(self.host.to_string()),
            "service" => Some(self.instance.service.to_string()),
            "instance" => Some(self.instance.to_string()),
            "ordinal" => Some(self.instance.ordinal.to_string()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_replaced_and_the_rest_stays() {
        let host = IpAddr::from([127, 0, 0, 1]);
        let place = Placeholders { instance: InstanceId::new("web", 2), host, port: Some(20001) };
        for (text, want) in [
            ("{host}:{port}", "127.0.0.1:20001"),
            ("{service}/{instance}/{ordinal}", "web/web-2/2"),
            (r#"{"a": {"port": {port}}}"#, r#"{"a": {"port": 20001}}"#),
            ("{unknown} {", "{unknown} {"),
            ("{{port}}", "{20001}"),
        ] {
            assert_eq!(place.expand(text), want);
        }
        let portless = Placeholders { port: None, ..place };
        assert_eq!(portless.expand("{port}"), "{port}");
        assert!(PLACEHOLDERS.iter().filter(|name| portless.value(name).is_none()).eq([&"port"]));
    }
}
