# The witness of the pair 10.0.0.1 and 10.0.0.2, on a third machine that fails for reasons of its own.
# As /etc/holdfast/witness.hcl with the members' `secret` beside it, both root:holdfast-witness and mode 640: the
# witness runs as a user of its own, who reads them and cannot change them.

replication {
  mode            = "witness"
  node_id         = "w"
  listen_addr     = "10.0.0.3:9001"  # a witness takes its address from here and listens on UDP 9002 alone
  peer_addrs      = ["10.0.0.1:9001", "10.0.0.2:9001"]
  secret_key_file = "secret"
  state_dir       = "/var/lib/holdfast-witness"

  ha {
    enabled = true
  }
}

api {
  listen = "127.0.0.1:8080"
}
