package registry

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/boottime"
	"github.com/scope-registry/scope-registry/internal/certs"
)

const (
	// maxPeers bounds the servers of a cluster: each one more makes every write wait for more disks.
	maxPeers = 9

	// maxAppendEntries is how many log entries one request of raft carries. The committer packs commands into
	// few entries, so that more would only make requests large.
	maxAppendEntries = 64

	// logCacheEntries keeps the newest entries in memory, so that a follower that lags a little costs no read.
	logCacheEntries = 512

	// commitTimeout sets how late a follower learns of a commit when nothing follows it and the notice is lost, see notices. What
	// a server at rest costs is mostly raft's requests at this pace.
	commitTimeout = 50 * time.Millisecond

	// defaultSnapshotThreshold is how many entries make a snapshot worthwhile.
	defaultSnapshotThreshold = 8192

	// trailingFactor times the threshold is how many entries stay in the log after a snapshot: with none left, a
	// corrupt newest snapshot silently rolls the state back; with these, replay from the one before reaches the end.
	trailingFactor = 4

	// snapshotsKept leaves two to fall back on.
	snapshotsKept = 3

	// snapshotInterval is how often raft looks whether a snapshot is due, and after twice that at the latest: so often that
	// fewer entries come between two of them than stay in the log, at thousands a second too. Else the log would not reach
	// the snapshot before the newest, and if that one were damaged the server could not start.
	snapshotInterval = 5 * time.Second

	// transportTimeout bounds one request of raft. Dialing has its own, shorter bound.
	transportTimeout = 5 * time.Second

	// transportPool is how many idle connections to each server are kept: of entries, heartbeats, votes and notices.
	transportPool = 4
)

// Peer is one server of the cluster.
type Peer struct {
	// ID is the server's id. It is in votes and in the log; a server never gets that of another.
	ID string `json:"id"`
	// Addr is the host:port the others dial. It is resolved at each dial.
	Addr string `json:"addr"`
}

// Config says who this server is. ID, DataDir and Peers are needed.
type Config struct {
	// ID is this server's id, one of Peers.
	ID string
	// DataDir is a directory of this server alone. It is created with mode 0700.
	DataDir string
	// Peers is every server of the cluster, this one included, in any order.
	Peers []Peer
	// PeerListen is the host:port to bind for the other servers; "" is this server's own address in Peers.
	PeerListen string
	// Timing is "fast", "default" (or "") or "wan": how long a silent leader is waited for.
	Timing string
	// HTTPAddr is told to the other servers for their status. May be "".
	HTTPAddr string
	// Version is told to the other servers for their status. May be "".
	Version string
	// Certs is what this server shows the others, who must show such a certificate too; nil leaves the port between servers
	// without TLS.
	Certs *certs.Source
	// Logger may be nil.
	Logger hclog.Logger
	// SnapshotThreshold is after how many log entries a snapshot is taken; 0 is 8192.
	SnapshotThreshold uint64
	// Leases are the times by which nodes hold their sessions; the zero value is [api.DefaultLeases]. All servers of a
	// cluster must have the same.
	Leases api.Leases
	// OnFatal may be nil. It is called once, with the first error after which this server must not go on. It
	// must return soon and must not call Close itself.
	OnFatal func(error)

	// clock is what leases and moves are counted by; nil is boottime.Now. In a test it is one of virtual time.
	clock func() time.Duration
	// checkEvery is after how many entries the states are compared; 0 is defaultCheckEvery. Less in a test.
	checkEvery uint64
	// space is asked how much is free; nil is the operating system. In a test it is a disk of any size.
	space spaceOf
}

// timing is how long raft waits, one profile.
type timing struct{ heartbeat, lease time.Duration }

// timingOf returns the profile of a name.
func timingOf(name string) (timing, error) {
	switch name {
	case "fast":
		return timing{150 * time.Millisecond, 150 * time.Millisecond}, nil
	case "", "default":
		return timing{500 * time.Millisecond, 500 * time.Millisecond}, nil
	case "wan":
		return timing{time.Second, 500 * time.Millisecond}, nil
	}
	return timing{}, fmt.Errorf("timing %q is unknown; choose fast, default or wan", name)
}

// Check says what of the configuration no server could start with. It looks at nothing outside it.
func (cfg Config) Check() error {
	_, err := cfg.complete()
	return err
}

// complete checks the configuration and fills in what was left out.
func (cfg Config) complete() (Config, error) {
	if cfg.ID == "" {
		return cfg, fmt.Errorf("server id %q is empty; give this server the id it has in the list of servers", cfg.ID)
	}
	if cfg.DataDir == "" {
		return cfg, fmt.Errorf("data directory %q is empty; name a directory of this server alone", cfg.DataDir)
	}
	if _, err := timingOf(cfg.Timing); err != nil {
		return cfg, err
	}
	if err := checkPeers(cfg.Peers); err != nil {
		return cfg, err
	}
	own := slices.IndexFunc(cfg.Peers, func(p Peer) bool { return p.ID == cfg.ID })
	if own < 0 {
		return cfg, fmt.Errorf("server id %q is not in the list of servers %s; add it or correct the id", cfg.ID, showPeers(cfg.Peers))
	}
	cfg.Peers = sortedPeers(cfg.Peers)
	if cfg.PeerListen == "" {
		cfg.PeerListen = cfg.addrOf(cfg.ID)
	}
	if cfg.SnapshotThreshold == 0 {
		cfg.SnapshotThreshold = defaultSnapshotThreshold
	}
	if cfg.Leases == (api.Leases{}) {
		cfg.Leases = api.DefaultLeases()
	}
	if err := cfg.Leases.Check(); err != nil {
		return cfg, err
	}
	if cfg.clock == nil {
		cfg.clock = boottime.Now
	}
	if cfg.checkEvery == 0 {
		cfg.checkEvery = defaultCheckEvery
	}
	if cfg.space == nil {
		cfg.space = statfs{}
	}
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	return cfg, nil
}

func checkPeers(peers []Peer) error {
	if len(peers) == 0 || len(peers) > maxPeers {
		return fmt.Errorf("the list of servers has %d entries, 1 to %d are allowed", len(peers), maxPeers)
	}
	seen := map[string]bool{}
	for _, p := range peers {
		host, port, err := net.SplitHostPort(p.Addr)
		switch {
		case p.ID == "":
			return fmt.Errorf("the server at %q has no id; write id=host:port", p.Addr)
		case err != nil || host == "" || port == "" || port == "0":
			return fmt.Errorf("address %q of server %q is not host:port; write what the other servers dial", p.Addr, p.ID)
		case seen["id "+p.ID]:
			return fmt.Errorf("server id %q is in the list twice; give every server its own", p.ID)
		case seen["addr "+p.Addr]:
			return fmt.Errorf("address %q is in the list twice; give every server its own", p.Addr)
		}
		seen["id "+p.ID], seen["addr "+p.Addr] = true, true
	}
	return nil
}

// addrOf returns the address of a server, "" if it is not in the list.
func (cfg Config) addrOf(id string) string {
	for _, p := range cfg.Peers {
		if p.ID == id {
			return p.Addr
		}
	}
	return ""
}

// idAt returns the id of the server at an address, "" if none is there.
func (cfg Config) idAt(addr string) string {
	for _, p := range cfg.Peers {
		if p.Addr == addr {
			return p.ID
		}
	}
	return ""
}

func sortedPeers(peers []Peer) []Peer {
	return slices.SortedFunc(slices.Values(peers), func(a, b Peer) int { return strings.Compare(a.ID, b.ID) })
}

// showPeers is the list as it is written on the command line.
func showPeers(peers []Peer) string {
	var out []string
	for _, p := range sortedPeers(peers) {
		out = append(out, p.ID+"="+p.Addr)
	}
	return strings.Join(out, ",")
}

// voters is the list as raft's first configuration. It is made anew at each call: raft changes what it is given.
func (cfg Config) voters() raft.Configuration {
	var out raft.Configuration
	for _, p := range cfg.Peers {
		out.Servers = append(out.Servers, raft.Server{ID: raft.ServerID(p.ID), Address: raft.ServerAddress(p.Addr)})
	}
	return out
}

// raftConfig is raft's configuration; notify gets every change of leadership of this server.
func (cfg Config) raftConfig(notify chan<- bool) (*raft.Config, error) {
	t, err := timingOf(cfg.Timing)
	if err != nil {
		return nil, err
	}
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(cfg.ID)
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = t.heartbeat, t.heartbeat, t.lease
	c.CommitTimeout = commitTimeout
	c.MaxAppendEntries = maxAppendEntries
	c.SnapshotThreshold = cfg.SnapshotThreshold
	c.TrailingLogs = trailingFactor * cfg.SnapshotThreshold
	c.SnapshotInterval = snapshotInterval
	c.NotifyCh = notify
	c.Logger = cfg.Logger.Named("raft")
	c.ShutdownOnRemove = false // a server that was removed ends itself, and says so
	c.NoLegacyTelemetry = true // names with a server's address in them must not reach the metrics
	return c, raft.ValidateConfig(c)
}
