//! How the vocabulary of `policy` is spelled in JSON.

macro_rules! spelled {
    ($module:ident, $type:ty, $($variant:path => $name:literal),+) => {
        pub(super) mod $module {
            use serde::{Deserialize, Deserializer, Serializer, de::Error};

            #[allow(clippy::trivially_copy_pass_by_ref)]
            pub(in crate::snapshot) fn serialize<S: Serializer>(value: &$type, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(match value { $($variant => $name),+ })
            }

            pub(in crate::snapshot) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<$type, D::Error> {
                match String::deserialize(d)?.as_str() {
                    $($name => Ok($variant),)+
                    other => Err(D::Error::unknown_variant(other, &[$($name),+])),
                }
            }
        }
    };
}

spelled!(algorithm, holdfast_policy::balance::Algorithm,
    holdfast_policy::balance::Algorithm::RoundRobin => "round_robin",
    holdfast_policy::balance::Algorithm::LeastRequests => "least_requests",
    holdfast_policy::balance::Algorithm::P2c => "p2c");

spelled!(state, holdfast_policy::balance::State,
    holdfast_policy::balance::State::Ready => "ready",
    holdfast_policy::balance::State::Suspect => "suspect",
    holdfast_policy::balance::State::NotReady => "not_ready",
    holdfast_policy::balance::State::Draining => "draining");

pub(super) mod incarnation {
    use holdfast_policy::Incarnation;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[allow(clippy::trivially_copy_pass_by_ref)]
    pub(in crate::snapshot) fn serialize<S: Serializer>(value: &Incarnation, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    pub(in crate::snapshot) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Incarnation, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}
