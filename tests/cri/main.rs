//! The shim under containerd's CRI plugin, as a kubelet drives it: pods, probes, logs, terminals,
//! limits, and what is left when containerd or the shim dies.
//!
//! Each test has a containerd of its own and ends with the census: nothing of the pod is left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod api;
#[path = "../common/mod.rs"]
mod common;
mod death;
mod exec;
mod grpc;
mod image;
mod life;
mod namespaces;
mod node;
mod resources;
mod stdio;
mod stream;

use common::containerd::Version;

/// Each case under the containerds and runtimes it is for: `case: (VERSION, RUNTIME) as test, …;`.
macro_rules! cases {
    ($($module:ident::$case:ident: $($name:ident ($version:ident, $runtime:literal)),+;)*) => {
        $(mod $case { $(
            #[test]
            fn $name() {
                crate::$module::$case(&mut crate::node::Node::start(
                    crate::Version::$version,
                    $runtime,
                ));
            }
        )+ })*
    };
}

cases! {
    life::containers_of_a_pod: v2_1(V2_1, "RUNC"), v1_7(V1_7, "RUNC"), v1_6(V1_6, "RUNC"), crun(V2_1, "CRUN_1_21");
    life::pod_by_the_shims_name: v2_1(V2_1, "RUNC"), v1_7(V1_7, "RUNC");
    life::options_by_the_shims_name: v2_1(V2_1, "RUNC"), v1_7(V1_7, "RUNC");
    life::stops: v2_1(V2_1, "RUNC"), v1_7(V1_7, "RUNC"), v1_6(V1_6, "RUNC"), crun(V2_1, "CRUN_1_21");
    life::removal_of_a_busy_pod: v2_1(V2_1, "RUNC");
    life::announcements: v2_1(V2_1, "RUNC");
    exec::commands: v2_1(V2_1, "RUNC"), v1_7(V1_7, "RUNC"), v1_6(V1_6, "RUNC"), crun(V2_1, "CRUN_1_21");
    exec::probes_at_speed: v2_1(V2_1, "RUNC");
    exec::exec_in_a_dying_container: v2_1(V2_1, "RUNC");
    exec::terminal: v2_1(V2_1, "RUNC"), v1_7(V1_7, "RUNC");
    exec::input: v2_1(V2_1, "RUNC");
    stdio::logs: v2_1(V2_1, "RUNC"), v1_7(V1_7, "RUNC");
    stdio::attach: v2_1(V2_1, "RUNC");
    stdio::attach_to_a_terminal: v2_1(V2_1, "RUNC");
    namespaces::of_the_pod: v2_1(V2_1, "RUNC"), crun(V2_1, "CRUN_1_21");
    namespaces::of_the_node: v2_1(V2_1, "RUNC");
    namespaces::of_another_container: v2_1(V2_1, "RUNC");
    resources::figures: v2_1(V2_1, "RUNC"), v1_7(V1_7, "RUNC");
    resources::out_of_memory: v2_1(V2_1, "RUNC"), v1_7(V1_7, "RUNC");
    resources::refused_forks: v2_1(V2_1, "RUNC"), v1_7(V1_7, "RUNC");
    resources::update: v2_1(V2_1, "RUNC"), v1_7(V1_7, "RUNC");
    death::containerd_restarts: v2_1(V2_1, "RUNC"), v1_7(V1_7, "RUNC"), v1_6(V1_6, "RUNC"), crun(V2_1, "CRUN_1_21");
    death::shim_killed: v2_1(V2_1, "RUNC");
}

mod without_the_runtime {
    use super::Version;

    #[test]
    fn v2_1() {
        crate::exec::without_the_runtime(Version::V2_1, "RUNC");
    }

    #[test]
    fn v1_7() {
        crate::exec::without_the_runtime(Version::V1_7, "RUNC_1_3");
    }

    #[test]
    fn crun() {
        crate::exec::without_the_runtime(Version::V2_1, "CRUN_1_21");
    }
}
