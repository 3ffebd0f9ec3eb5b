//! The shim under real managers: three containerds, two OCI runtimes, three ways to install it.
//!
//! Everything is asked through each containerd's own `ctr`, and every test ends with the census of
//! what it started with: no process, mount, socket, directory or cgroup more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod away;
#[path = "../common/mod.rs"]
mod common;
#[path = "../cri/grpc.rs"]
#[allow(dead_code)]
mod grpc;
mod life;
mod resources;
mod shims;

use common::containerd::{Form, Version, go_shim};

macro_rules! matrix {
    ($($module:ident: $version:ident, $runtime:literal;)*) => {$(
        mod $module {
            use super::*;

            #[test]
            fn run_by_name() {
                life::run(Version::$version, Form::Name, $runtime);
            }

            #[test]
            fn run_by_path() {
                life::run(Version::$version, Form::Path, $runtime);
            }

            #[test]
            fn run_as_drop_in() {
                life::run(Version::$version, Form::DropIn, $runtime);
            }

            #[test]
            fn detached_by_name() {
                life::detached(Version::$version, Form::Name, $runtime);
            }

            #[test]
            fn detached_by_path() {
                life::detached(Version::$version, Form::Path, $runtime);
            }

            #[test]
            fn detached_as_drop_in() {
                life::detached(Version::$version, Form::DropIn, $runtime);
            }

            #[test]
            fn configured_by_name() {
                if !go_shim() {
                    shims::configured(Version::$version, $runtime);
                }
            }

            #[test]
            fn operated_by_name() {
                resources::operated(Version::$version, Form::Name, $runtime);
            }

            #[test]
            fn updated_by_name() {
                resources::updated(Version::$version, Form::Name, $runtime);
            }

            #[test]
            fn daemon_restarts() {
                away::restart(Version::$version, Form::Name, $runtime);
            }

            #[test]
            fn clients_attach() {
                life::attached(Version::$version, Form::Name, $runtime);
            }

            #[test]
            fn exit_while_daemon_is_away() {
                away::exit_unseen(Version::$version, Form::Name, $runtime);
            }

            #[test]
            fn shim_is_killed() {
                shims::shim_killed(Version::$version, Form::Name, $runtime);
            }
        }
    )*};
}

// Each containerd with the runtimes of its time: crun 1.8 refuses the OCI version that containerd 1.7
// and later write.
matrix! {
    v1_6_runc: V1_6, "RUNC";
    v1_6_crun: V1_6, "CRUN";
    v1_7_runc: V1_7, "RUNC";
    v1_7_crun: V1_7, "CRUN_1_21";
    v2_1_runc: V2_1, "RUNC_1_3";
    v2_1_old_runc: V2_1, "RUNC";
    v2_1_crun: V2_1, "CRUN_1_21";
    v2_1_new_crun: V2_1, "CRUN_1_28";
}

mod upgrades {
    use super::*;

    #[test]
    fn containerd_1_6_to_1_7() {
        shims::upgraded(Version::V1_6, Version::V1_7, Form::Name, "RUNC");
    }

    #[test]
    fn containerd_1_7_to_2_1() {
        shims::upgraded(Version::V1_7, Version::V2_1, Form::DropIn, "RUNC");
    }

    #[test]
    fn containerd_1_6_to_2_1() {
        shims::upgraded(Version::V1_6, Version::V2_1, Form::Path, "RUNC_1_3");
    }

    #[test]
    fn from_the_go_shim_under_1_6() {
        shims::replaced(Version::V1_6, false, "RUNC");
    }

    #[test]
    fn from_the_go_shim_under_1_7() {
        shims::replaced(Version::V1_7, false, "RUNC");
    }

    #[test]
    fn from_the_go_shim_under_2_1() {
        shims::replaced(Version::V2_1, false, "RUNC_1_3");
    }

    #[test]
    fn back_to_the_go_shim() {
        shims::replaced(Version::V2_1, true, "RUNC_1_3");
    }
}

mod runtimes {
    use super::*;

    #[test]
    fn crun_1_8_under_1_7() {
        shims::too_old(Version::V1_7, Form::DropIn, "CRUN");
    }

    #[test]
    fn crun_1_8_under_2_1() {
        shims::too_old(Version::V2_1, Form::Name, "CRUN");
    }
}
