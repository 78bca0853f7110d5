//! Time, hosts, network, clocks, disks and kernels, all simulated.
