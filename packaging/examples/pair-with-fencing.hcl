# Member a of a pair without a witness whose halves can switch each other off by their management
# controllers; b has the addresses the other way round, mode "replica", node_id "b" and priority 100. Neither
# half goes on alone before the other one is confirmed to be off. Install fence-agents, and try it.
# As /etc/holdfast/holdfast.hcl, mode 600, with `secret`, `root-secret` and `ipmi` beside it.

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

    # What `fence` below switches off is the evidence that a pair has instead of a majority.
    two_node         = "fence"
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

# The same two blocks may stand on both members: each uses the one for the other.
fence "ipmi-a" {
  agent  = "fence_ipmilan"
  member = "a"
  params {
    ip            = "10.0.9.11"
    username      = "holdfast"
    password_file = "ipmi"
    lanplus       = true
  }
}

fence "ipmi-b" {
  agent  = "fence_ipmilan"
  member = "b"
  params {
    ip            = "10.0.9.12"
    username      = "holdfast"
    password_file = "ipmi"
    lanplus       = true
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
