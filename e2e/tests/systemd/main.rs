//! The shipped units and the Debian package on a real systemd, as PID 1 in namespaces of its own. Without root each
//! test says that it was not run. `HANDOFFD_SUITE=trixie` runs the same on a newer Debian.

#![forbid(unsafe_code)]

mod a_site_on_debian_is_installed_and_never_notices;
mod the_fd_store_is_never_in_the_way;
mod the_package_comes_goes_and_is_upgraded;
mod the_service_is_stopped_by_draining;
mod the_socket_is_there_before_the_daemon;
mod the_supervisor_is_replaced_and_nobody_notices;
mod the_unit_confines_what_it_starts;
mod the_unit_reaches_what_backends_need;
mod the_watchdog_replaces_a_stuck_supervisor;
