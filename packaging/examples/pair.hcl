# Member a of a pair without a witness; b has the addresses the other way round, mode "replica", node_id
# "b" and priority 100. Two members have no majority once one is lost: read what `holdfast config check`
# says about that, and prefer a witness (pair-with-witness-a.hcl) where there is any third machine.
# As /etc/holdfast/holdfast.hcl, mode 600, with `secret` and `root-secret` beside it.

replication {
  mode            = "primary"
  node_id         = "a"
  listen_addr     = "10.0.0.1:9001"
  peer_addrs      = ["10.0.0.2:9001"]
  secret_key_file = "secret"
  state_dir       = "/var/lib/holdfast"

  ha {
    enabled  = true
    priority = 50

    # The survivor takes over when every heartbeat path is silent, its own links and a gateway are
    # good, and nobody answers for the virtual address. "manual" waits for an operator instead.
    two_node         = "probe"
    monitor_gateways = ["10.0.0.254"]
    monitor_links    = ["eth0"]

    # A second cable between the two, so that one switch alone cannot part them.
    heartbeat_path "cable" {
      listen = "10.1.0.1"
      peers  = ["10.1.0.2"]
    }

    virtual_ip {
      address   = "10.0.0.100/24"
      interface = "eth0"
    }
  }
}

store {
  data_dir             = "/var/lib/holdfast/store"
  listen               = "0.0.0.0:9000"
  root_access_key      = "admin"
  root_secret_key_file = "root-secret"
}

api {
  listen = "127.0.0.1:8080"
}
