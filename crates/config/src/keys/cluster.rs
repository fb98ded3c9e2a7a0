//! `[cluster]` and `[node.NAME]`.

use super::{Change::*, Default::*, Section, Type::*, key};

pub(crate) static CLUSTER: Section = Section {
    title: "[cluster]",
    doc: "Several machines that act as one. Without this table holdfast keeps this machine alone, and needs nothing else.",
    keys: &[
        key(
            "etcd",
            Forms("\"http://ADDRESS:PORT\", https too, or an array of them"),
            Required,
            Agent,
            r#"["http://10.0.0.1:2379", "http://10.0.0.2:2379", "http://10.0.0.3:2379"]"#,
            "Members of the etcd cluster that keeps what the machines agree on. Name all: another is asked when one does not answer.",
        ),
        key(
            "name",
            Text,
            Is("main"),
            Agent,
            r#""shop""#,
            "Several clusters may share one etcd: the keys of each lie below `/holdfast/NAME`.",
        ),
        key(
            "lease",
            Choice(&["default", "fast", "wan"]),
            Is("default"),
            Agent,
            r#""fast""#,
            "How long a machine may be silent before others act for it, in seconds (lease / renewal / gives up by itself): default 10/3/7, fast 6/2/4, wan 30/10/20.",
        ),
        key(
            "link",
            Integer { min: 0, max: 65535 },
            Is("7400"),
            Agent,
            "7500",
            "Port of this machine's address on which its agent answers the other agents, and machines that want to join; 0 takes any free one.",
        ),
        key(
            "certificates",
            Duration { min: "5s", max: "3650d" },
            Is("90d"),
            Agent,
            r#""30d""#,
            "How long a certificate of a machine is valid. It is renewed at half its life, so a machine may be away for the other half.",
        ),
        key("user", Text, Words("none"), Agent, r#""holdfast""#, "User of etcd, where it asks for one."),
        key(
            "password",
            Forms("{ file = \"PATH\" } or { env = \"NAME\" }"),
            Words("none"),
            Agent,
            r#"{ file = "/run/secrets/etcd" }"#,
            "Its password, as a reference: the file lies in etcd itself, so the password may not stand in it.",
        ),
        key(
            "ca",
            Path,
            Words("the system's"),
            Agent,
            r#""/etc/holdfast/etcd-ca.pem""#,
            "Certificates of the authorities that may have signed etcd's certificate, in PEM.",
        ),
        key(
            "cert",
            Path,
            Words("none"),
            Agent,
            r#""/etc/holdfast/etcd.pem""#,
            "Certificate to show to etcd, in PEM; needs `key`.",
        ),
        key("key", Path, Words("none"), Agent, r#""/etc/holdfast/etcd.key""#, "Its private key, in PEM."),
    ],
};

pub(crate) static MACHINE: Section = Section {
    title: "[node.NAME]",
    doc: "One machine of the cluster: where it is reached and what it shares with others. A machine that is not named here may join too, with what it finds out by itself.",
    keys: &[
        key(
            "address",
            Forms("an IP address"),
            Words("the one that reaches etcd"),
            Agent,
            r#""10.0.0.1""#,
            "Where the others reach its services and its agent.",
        ),
        key(
            "host",
            Text,
            Words("its name"),
            Agent,
            r#""vm-host-3""#,
            "What it runs on: virtual machines of one host fail together.",
        ),
        key("rack", Text, Words("its host"), Agent, r#""rack-2""#, "Machines of one rack share power and a switch."),
        key("zone", Text, Words("its rack"), Agent, r#""east""#, "Machines of one zone share a building."),
        key(
            "labels",
            Forms("table of texts"),
            Words("none"),
            Agent,
            r#"{ disk = "ssd" }"#,
            "What services and balancers may ask for with `on`.",
        ),
        key("cpus", Integer { min: 1, max: 4096 }, Words("its cores"), Agent, "8", "Cores that services may reserve."),
        key(
            "memory",
            Size { min: "16MiB", max: "64TiB" },
            Words("its memory"),
            Agent,
            r#""16GiB""#,
            "Memory that services may reserve.",
        ),
    ],
};
