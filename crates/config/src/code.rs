//! The codes of configuration findings; each has a page in `docs/errors`.

macro_rules! codes {
    ($($name:ident = $code:literal, $title:literal;)*) => {
        $(pub const $name: &str = $code;)*
        /// Code and title of each page.
        pub const ALL: &[(&str, &str)] = &[$(($code, $title)),*];
    };
}

codes! {
    UNREADABLE = "HF0101", "the configuration file cannot be read";
    SYNTAX = "HF0102", "the file is not valid TOML";
    UNKNOWN_KEY = "HF0103", "unknown key or table";
    WRONG_TYPE = "HF0104", "a value has the wrong type";
    BAD_VALUE = "HF0105", "a value is malformed or out of range";
    MISSING_KEY = "HF0106", "a required key is missing";
    CONFLICT = "HF0107", "two settings exclude each other";
    BAD_NAME = "HF0108", "a name is not allowed";
    UNDEFINED = "HF0110", "a reference to something that is not defined";
    CYCLE = "HF0111", "services wait for each other in a circle";
    PORT_CLASH = "HF0112", "two listeners want the same port";
    NOT_A_JOB = "HF0113", "`completed` names a service that is no job";
    PROBE_SLOW = "HF0114", "a probe may take longer than its period";
    MIN_AVAILABLE = "HF0115", "`min_available` can never be reached";
    EPHEMERAL = "HF0116", "assigned ports lie in the kernel's ephemeral range";
    ENV_NAME = "HF0117", "a name of an environment variable is malformed";
    EMPTY_COMMAND = "HF0118", "a command is empty";
    NO_PORT = "HF0119", "something needs a port that the service does not have";
    NOT_FOR_JOBS = "HF0120", "a setting that does not fit a job";
    DRILL_TARGET = "HF0121", "a drill does not fit its target";
    PORTS_SHORT = "HF0123", "there are fewer ports than instances";
    STANDBY = "HF0342", "a redundant service that cannot work";
    STANDBY_ONE_NODE = "HF0343", "all members of a redundant service run on one machine";
    STANDBY_UNSYNCED = "HF0344", "nobody keeps the data of a standby";
    SINGLE_INSTANCE = "HF0140", "one instance is all there is behind a balancer";
    BLOCKS_REPLACEMENT = "HF0141", "`min_available` leaves no instance to replace";
    PLAIN_SECRET = "HF0142", "a secret stands in the file";
    EAGER_LIVENESS = "HF0143", "one missed liveness probe restarts an instance";
    FENCED_REPLICAS = "HF0144", "a fenced service has several instances";
    NEEDS_ROOT = "HF0145", "a setting takes effect only as root";
    LIVENESS_FIRST = "HF0146", "liveness acts before readiness";
    ALL_AT_ONCE = "HF0147", "all instances may be replaced at the same time";
    HOPELESS_DRILL = "HF0148", "a drill that cannot pass";
    NOT_THERE = "HF0149", "a program or file is not there";
    ONE_NODE = "HF0150", "everything runs on one machine";
    SINGLE_DEPENDENCY = "HF0151", "a dependency has a single instance";
    ONE_BALANCER = "HF0152", "one balancer process is all there is";
    NO_READINESS = "HF0153", "a balanced service has no readiness probe";
    ETCD_MEMBERS = "HF0155", "the members of etcd stand no loss";
    UNKNOWN_NODE = "HF0156", "a machine is named that is not described";
    LOOPBACK = "HF0157", "a service that other machines cannot reach";
    ONE_BALANCER_NODE = "HF0158", "one machine listens for a balancer";
    NODES_ALONE = "HF0159", "machines are described, and there is no cluster";
    PORT_UNTOLD = "HF0154", "a command does not mention the port that is assigned";
    TASKS_UNSIGNED = "HF0160", "queues are open to everybody who reaches them";
    TASKS_ONE_NODE = "HF0161", "queues and workflows of a cluster live on one machine";
    TASKS_LOOPBACK = "HF0162", "queues that other machines cannot reach";
    DEAD_LETTER = "HF0163", "a dead letter queue that cannot be one";
    DEAD_LETTER_SHORT = "HF0164", "dead letters are deleted before their time";
    QUARANTINE = "HF0165", "messages that crash their workers have nowhere to go";
    UNUSED = "HF0166", "a table that nothing uses";
    STEP_CYCLE = "HF0167", "steps wait for each other in a circle";
    EXPRESSION = "HF0168", "a reference or condition that cannot be read";
    NOT_UPSTREAM = "HF0169", "a reference to a step that need not have run before";
    PARAMETER = "HF0170", "parameters do not fit";
    WORKFLOW_CYCLE = "HF0171", "workflows run each other in a circle";
    SAGA = "HF0172", "a saga that could neither be finished nor rolled back";
}
