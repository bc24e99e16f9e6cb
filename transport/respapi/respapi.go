// Package respapi is the front door for clients of the Redis protocol: it
// answers the SCOPE commands, MOVE-SCOPE and SUBSCRIBE scope.events, and enough
// of Redis that its clients connect. It turns commands into commands and reads
// of a [Registry]; it decides nothing about ownership itself.
package respapi

import (
	"container/list"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/certs"
)

// Bounds of the front door. What one command may have is bounded by
// resp.DefaultLimits.
const (
	// MaxConns bounds the open connections, each of which costs memory and a file.
	MaxConns = 4096
	// MaxConnsEach bounds those of one known caller, so that a quarter is left to
	// others. Whoever is anonymous may do everything anyway.
	MaxConnsEach = MaxConns / 4 * 3
	// MaxUnsent bounds the answers of a pipeline that are held back to be sent
	// together. Commands themselves are not held: one is read when the one before
	// it is answered, and a client that sends more waits in its own write.
	MaxUnsent = 1024
	// MaxCount bounds the records of one list reply.
	MaxCount = 1000
	// MaxName bounds in bytes what a client calls itself: the name stands in the
	// actor of its moves, together with its address.
	MaxName = 64

	defaultCount    = 100
	leaderTimeout   = time.Second            // how long a read waits for what only the leader knows
	requestTimeout  = 10 * time.Second       // a command or read that takes longer has lost its leader
	requestSlack    = time.Second            // or up to so much later, for a context to serve many of them
	writeTimeout    = 10 * time.Second       // a client that does not read for longer is closed
	writeSlack      = time.Second            // so seldom is a connection's deadline set anew, which costs as much as a look-up
	shutdownTimeout = 5 * time.Second        // how long commands may take to end
	refusalTimeout  = 100 * time.Millisecond // bounds the writing of a refusal, which stops Accept
	lingerTimeout   = time.Second            // how long a refused client may take to read why
	maxLinger       = 1 << 20                // bytes it may still send meanwhile
	// maxAhead bounds in bytes what is read while a command waits. Beyond it a
	// client that goes is noticed only when the wait ends.
	maxAhead = 64 << 10
)

// Channel is the one channel there is. Each message is one api.WatchItem of
// type "change" as a line of JSON.
const Channel = "scope.events"

// Registry is what the front door needs of a server's core. Every error is an
// *api.Error.
type Registry interface {
	Propose(ctx context.Context, e fsm.Envelope) (*fsm.Result, error)
	Read(ctx context.Context, o api.ReadOptions) (fsm.State, error)
	State() fsm.State
	// Newest is State without the copy, and Local is Read of a local state without it: read only.
	Newest() *fsm.State
	Local() (*fsm.State, error)
	WaitIndex(ctx context.Context, index uint64) error
	Watch(from uint64) (*fsm.Watcher, error)
	Leader() (id string, lastContact time.Duration, known bool)
	Ready() error
	Status(ctx context.Context, hash bool) (api.Cluster, error)
	// Leading asks the leader for what only it knows.
	Leading(ctx context.Context) (api.Leading, error)
	ID() string
}

// Config is what New needs. Registry is required.
type Config struct {
	Registry Registry
	Logger   hclog.Logger // connections are logged at debug level; nil logs nothing
	Version  string
	Metrics  *Metrics // see Collector; nil counts unseen
	// Certs tells who a client is by its certificate, and puts connections under TLS; nil leaves them without. With
	// CertsRequired nobody gets in without one, and so nobody is anonymous.
	Certs         *certs.Source
	CertsRequired bool
}

// Server is the front door of one server.
type Server struct {
	reg     Registry
	log     hclog.Logger
	version string
	metrics *Metrics
	started time.Time
	certs   *certs.Source // nil: connections are not under TLS
	// certsRequired: whoever has no certificate does not get in, and so nobody is anonymous.
	certsRequired bool
	commands      map[string]*command // by first word, in upper case
	listed        []*command          // in the order of HELP
	lines         lines

	subscribers atomic.Int64

	// down ends when the server begins to stop: waits and subscriptions end with
	// it. hard ends shutdownTimeout later, and with it every command.
	down, hard    context.Context
	shutDown, cut context.CancelFunc
	serving       sync.WaitGroup // the goroutines of connections

	mu     sync.Mutex // guards the rest
	conns  map[*conn]struct{}
	silent list.List          // of *conn: never sent a whole command, oldest first
	held   map[access.Who]int // connections of known callers
	lastID int64
}

// New returns a front door that serves nothing yet. It needs no closing.
func New(cfg Config) *Server {
	s := &Server{reg: cfg.Registry, log: cfg.Logger, version: cfg.Version, metrics: cfg.Metrics,
		started: time.Now(), conns: map[*conn]struct{}{}, held: map[access.Who]int{}, certs: cfg.Certs, certsRequired: cfg.CertsRequired}
	if s.log == nil {
		s.log = hclog.NewNullLogger()
	}
	if s.metrics == nil {
		s.metrics = Collector()
	}
	s.down, s.shutDown = context.WithCancel(context.Background())
	s.hard, s.cut = context.WithCancel(context.Background())
	s.makeTable()
	return s
}
