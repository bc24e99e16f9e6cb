// Package httpapi serves /v1, the watch stream, health and metrics over HTTP.
// It turns requests into commands and reads of a [Registry] and answers in the
// JSON of internal/api; it decides nothing about ownership itself.
package httpapi

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/certs"
)

// Bounds of one request.
const (
	// MaxBody bounds a request's body in bytes: enough for a full batch of long
	// prefixes, and little enough to hold for every connection of a busy server.
	MaxBody = 8 << 20
	// MaxItems bounds the nodes and scopes of one batch, which the state machine
	// applies in one step while nothing else is applied.
	MaxItems = 10_000
	// MaxWatchers bounds the open watch streams of one server: each holds a
	// connection and a queue.
	MaxWatchers = 10_000
	// MaxList bounds the records of one page of a list.
	MaxList = 10_000
	// MaxHeaderText bounds a request id and an actor, which stand in the log.
	MaxHeaderText = 128
	// MinToken and MaxToken bound a session's token in bytes: 128 random bits in
	// hex at least, and no more than anybody draws.
	MinToken = 32
	MaxToken = 256

	defaultList     = 1000
	maxMoveWait     = 60 * time.Second // what proxies let an idle request live
	leaderTimeout   = time.Second      // how long a read waits for what only the leader knows
	requestTimeout  = 10 * time.Second // a mutation or read that takes longer has lost its leader
	bodyReadTimeout = 30 * time.Second // MaxBody over a slow link
	// strayTimeout bounds the reading of a body that nobody asked for, which net/http does before it replies: less than
	// writeTimeout, or the reply would be too late.
	strayTimeout = 5 * time.Second
	// writeTimeout ends a reply or stream whose client does not take a writePiece
	// of it: it holds a connection, and its place among MaxWatchers or maxBackups.
	writeTimeout = 10 * time.Second
	writeSlack   = time.Second // so seldom is the deadline of a reply set anew, which costs a fifth of what the write does
	// writePiece has to get through within writeTimeout: little, as slow links are fine.
	writePiece = 16 << 10
)

// Registry is what the front end needs of a server's core. Every error is an
// *api.Error.
type Registry interface {
	Propose(ctx context.Context, e fsm.Envelope) (*fsm.Result, error)
	Read(ctx context.Context, o api.ReadOptions) (fsm.State, error)
	State() fsm.State
	WaitIndex(ctx context.Context, index uint64) error
	Watch(from uint64) (*fsm.Watcher, error)
	Leader() (id string, lastContact time.Duration, known bool)
	Ready() error
	// Storage is what the server knows of its disk.
	Storage() api.Storage
	Status(ctx context.Context, hash bool) (api.Cluster, error)
	Transfer(ctx context.Context, to string) error
	// Join returns when the join of a server is on record, Remove when the server has left.
	Join(ctx context.Context, by fsm.Envelope, id, addr string) (api.ServerChange, error)
	Remove(ctx context.Context, by fsm.Envelope, id string, acceptNoMajority bool) (api.ServerChange, error)
	// Members counts the servers, and says whether this one votes.
	Members() (voters, nonVoters int, votes bool)
	// Renew answers when the leader has confirmed the lease.
	Renew(ctx context.Context, r api.Renewal) (api.Renewed, error)
	// Report tells the leader how far a move is; nothing of it is logged.
	Report(ctx context.Context, r api.Report) error
	// Leading asks the leader for what only it knows.
	Leading(ctx context.Context) (api.Leading, error)
	// Leases are the times of every session.
	Leases() api.Leases
}

// Config is what New needs. Registry is required.
type Config struct {
	Registry Registry
	Logger   hclog.Logger        // requests are logged at debug level; nil logs nothing
	Gatherer prometheus.Gatherer // what /metrics shows; nil shows nothing
	Metrics  *Metrics            // counts requests and watchers, see Collector; nil counts unseen
	Version  string              // of the program, for /openapi.json
	// Certs tells who a client is by its certificate; nil where connections are not under TLS. With CertsRequired nobody
	// gets in without one, and so nobody is anonymous.
	Certs         *certs.Source
	CertsRequired bool
	// Spool is the directory where a backup that is restored is put aside, up to
	// 1 GiB; "" is that of the system for such files.
	Spool string
}

// server is the handler of one front end.
type server struct {
	reg     Registry
	log     hclog.Logger
	metrics *Metrics
	mux     *http.ServeMux
	api     huma.API
	// Who may ask, and how much of it at the same time.
	certs         *certs.Source
	certsRequired bool
	origins       *http.CrossOriginProtection
	requests      *shares
	renewals      *shares
	watches       *shares

	watchers atomic.Int64 // open watch streams
	lines    lines        // what they are sent
	backups  atomic.Int64 // downloads under way
	restores atomic.Int64 // uploads under way
	spool    string
}

// New returns the handler of /v1, /openapi.json, /healthz, /readyz and
// /metrics. It starts nothing and needs no closing. Every operation but those
// that are open goes by the table of [access].
func New(cfg Config) http.Handler {
	s := &server{reg: cfg.Registry, log: cfg.Logger, metrics: cfg.Metrics, mux: http.NewServeMux(), spool: cfg.Spool,
		certs: cfg.Certs, certsRequired: cfg.CertsRequired, origins: http.NewCrossOriginProtection(),
		requests: newShares(maxRequestsEach), renewals: newShares(maxRenewalsEach), watches: newShares(maxWatchersEach)}
	if s.log == nil {
		s.log = hclog.NewNullLogger()
	}
	if s.metrics == nil {
		s.metrics = Collector(cfg.Registry)
	}
	gatherer := cfg.Gatherer
	if gatherer == nil {
		gatherer = prometheus.NewRegistry()
	}
	s.api = humago.New(s.mux, openAPI(cfg.Version))
	s.api.UseMiddleware(s.enter)
	s.scopeRoutes()
	s.nodeRoutes()
	s.sessionRoutes()
	s.moveRoutes()
	s.clusterRoutes()
	s.tokenRoutes()
	s.rawRoutes(promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{}))
	s.describe()
	return s
}

// register adds one operation. Errors of h become problems.
func register[I, O any](s *server, id, method, path, summary string, h func(context.Context, *I) (*O, error)) {
	mustKnow(id)
	_, takesBody := reflect.TypeFor[I]().FieldByName("Body")
	op := huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary,
		MaxBodyBytes: MaxBody, BodyReadTimeout: bodyReadTimeout, Responses: s.problemResponse()}
	if id == "startMove" || id == "joinServer" {
		op.DefaultStatus = http.StatusAccepted // it goes on after the reply
	}
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		if takesBody { // and has read it: its deadline would else end a request that waits
			_ = http.NewResponseController(replyOf(ctx).ResponseWriter).SetReadDeadline(time.Time{}) // best effort: not every writer has one
		}
		out, err := h(ctx, in)
		if err != nil {
			return nil, problemOf(err)
		}
		return out, nil
	})
}

// mustKnow panics for an operation of which the table of access does not say who may ask for it.
func mustKnow(operation string) {
	if !access.Known(access.Action(operation)) {
		panic(fmt.Sprintf("operation %q has no row in internal/access; say there who may ask for it", operation))
	}
}

func (s *server) healthz(w http.ResponseWriter, _ *http.Request) { writeText(w, "ok") }

// openToAll is what is said of a server that knows no callers.
const openToAll = "anonymous callers are admitted: everybody who reaches a server may do everything, until the first token is made with: scope-registry cluster bootstrap-token"

func (s *server) readyz(w http.ResponseWriter, _ *http.Request) {
	if err := s.reg.Ready(); err != nil {
		writeProblem(w, problemOf(err))
		return
	}
	if s.admitsAnonymous(s.reg.State()) {
		writeText(w, "ok\n"+openToAll+"\n")
		return
	}
	writeText(w, "ok")
}

func writeText(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, text) // the client may be gone
}
