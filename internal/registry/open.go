package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/transport/peer"
)

const (
	// worthwhile is the part of the snapshot threshold from which a snapshot on the way out saves the next start time.
	worthwhile = 4

	// manyScopes makes one worthwhile after any change: then a few large entries can hold more than thousands of small
	// ones, and reading a snapshot is several times faster than applying them again.
	manyScopes = 10_000
)

// Registry is one server of the cluster. Open makes it.
type Registry struct {
	cfg       Config
	log       hclog.Logger
	clusterID string
	dir       *dataDir
	expel     func(server string)
	raft      *raft.Raft
	guard     *peer.Guard
	met       *acquaintances
	fsm       *fsm.FSM
	calls     caller
	snaps     raft.SnapshotStore
	alarm     *alarm
	commits   *committer
	confirms  *confirmer
	following *following
	checks    *checker
	dog       *watchdog
	space     space
	releases  *knownReleases
	started   time.Time

	ready   atomic.Bool            // caught up once since the start
	caught  chan struct{}          // closed with that
	closing atomic.Bool            // Close was called
	leads   atomic.Bool            // as raft said last
	office  atomic.Pointer[office] // nil unless this server leads and has confirmed it; lead sets it
	counts  leaseCounts
	waits   atomic.Pointer[string] // what a change of the servers waits for; the leader's
	removed chan struct{}          // closed when this server is known to be none of the cluster any more

	leadership chan struct{} // a change of leads to look at
	drained    chan struct{} // closed when raft sends no more notifications

	ctx     context.Context // ends early in Close
	cancel  context.CancelFunc
	drain   sync.WaitGroup // the readers of what raft reports, as long as it runs
	wg      sync.WaitGroup // the loops
	futures sync.WaitGroup // goroutines that wait for one of raft's futures

	spawning sync.Mutex // guards spawned
	spawned  bool       // no more goroutines in futures, Close waits for them

	closeOnce sync.Once
	closeErr  error
	closers   []func() error // what is below raft, in the order of closing
}

// alarm takes the first fatal error.
type alarm struct {
	once    sync.Once
	failed  atomic.Pointer[error] // the error, once there is one
	fatal   chan error
	onFatal func(error)
}

func newAlarm(onFatal func(error)) *alarm {
	return &alarm{fatal: make(chan error, 1), onFatal: onFatal}
}

func (a *alarm) raise(err error) {
	a.once.Do(func() {
		a.failed.Store(&err)
		a.fatal <- err
		if a.onFatal != nil {
			a.onFatal(err)
		}
	})
}

// stopped is UNAVAILABLE after a fatal error: this server answers nobody any more, also while it is still going down.
func (a *alarm) stopped(id string) *api.Error {
	err := a.failed.Load()
	if err == nil {
		return nil
	}
	return &api.Error{Code: api.Unavailable, Detail: fmt.Sprintf("server %q must not go on, ask another one: %v", id, *err)}
}

// plumbing is what raft stands on. Tests hand in a network and stores in memory.
type plumbing struct {
	logs      raft.LogStore
	stable    raft.StableStore
	snaps     raft.SnapshotStore
	transport peer.Transport // raft closes it
	wires     *wires         // under the transport; nil if it has none
	calls     caller
	clusterID string
	alarm     *alarm
	closers   []func() error // in the order of closing, after raft
	dir       *dataDir
	expel     func(server string) // ends the connections that it dialed for raft
	releases  *knownReleases      // what the servers said at the founding
	opened    func(*Registry)     // told when calls can be answered, before this server makes any
}

// Open starts this server and returns when raft runs. With an empty data directory it waits for the other servers
// first; ctx ends that wait, and nothing after it.
//
// The order: the raft store first, as its lock says that the directory is ours; then the identity, the port between
// servers (which answers only hello until raft runs), bootstrap, and raft last. Close goes the other way.
func Open(ctx context.Context, cfg Config) (r *Registry, err error) {
	if cfg, err = cfg.complete(); err != nil {
		return nil, err
	}
	a := newAlarm(cfg.OnFatal)
	var closers []func() error
	defer func() {
		if r == nil {
			err = errors.Join(err, closeAll(closers))
		}
	}()
	if err := cfg.ownCertificate(); err != nil {
		return nil, err
	}
	if err := usable(cfg.DataDir); err != nil {
		return nil, err
	}
	s, err := openStore(cfg.DataDir, a.raise)
	if err != nil {
		return nil, err
	}
	closers = []func() error{s.Close}
	snaps, dir, err := openDir(cfg, s, a.raise)
	if err != nil {
		return nil, err
	}
	d := &door{dir: dir}
	port := peer.Config{
		Listen: cfg.PeerListen, Advertise: cfg.addrOf(cfg.ID), PeerID: d.idAt(cfg), Refuse: d.refuse,
		Identity: peer.Identity{ID: cfg.ID, Cluster: dir.cluster}, Handler: d.serve, Logger: cfg.Logger.Named("peer"),
	}
	if cfg.Certs != nil {
		port.Certs = cfg.Certs
	}
	mux, err := peer.Open(port)
	if err != nil {
		return nil, err
	}
	closers = []func() error{mux.Close, s.Close}
	releases := new(knownReleases)
	if !dir.identity().Bootstrapped {
		conf, err := cfg.raftConfig(nil)
		if err != nil {
			return nil, err
		}
		f := newFounding(cfg, dir, mux)
		d.founding.Store(f)
		releases = &f.releases
		if err := f.found(ctx, conf, s, snaps); err != nil {
			return nil, err
		}
	}
	cached, err := raft.NewLogCache(logCacheEntries, s)
	if err != nil {
		return nil, fmt.Errorf("making a cache of %d log entries: %w; report this", logCacheEntries, err)
	}
	// Only now does the port take connections of raft (RAFT traps 8 and 9).
	w := newWires(mux.StreamLayer())
	r, err = start(cfg, plumbing{
		logs: cached, stable: s, snaps: snaps, calls: mux, clusterID: dir.cluster(), alarm: a, closers: closers,
		dir: dir, expel: mux.Expel, releases: releases, opened: d.registry.Store,
		transport: newTransport(cfg, w), wires: w,
	})
	if err != nil {
		return nil, err
	}
	snaps.started()
	return r, nil
}

// newTransport is raft's transport over the port. One request in flight: with two, raft's default, a follower's
// pipeline can get stuck, and the port's check of requests relies on it. The layer names servers by "host:port" as
// configured and resolves at every dial (RAFT trap 7).
func newTransport(cfg Config, layer raft.StreamLayer) *raft.NetworkTransport {
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: layer, MaxPool: transportPool, MaxRPCsInFlight: 1, Timeout: transportTimeout, Logger: cfg.Logger.Named("raft-net"),
	})
}

// openDir opens what is in the data directory beside the raft store.
func openDir(cfg Config, s *store, fatal func(error)) (*snapshots, *dataDir, error) {
	snaps, err := openSnapshots(cfg.DataDir, cfg.Logger.Named("snapshots"), fatal)
	if err != nil {
		return nil, nil, err
	}
	hasState, err := raft.HasExistingState(s, s, snaps)
	if err != nil {
		return nil, nil, fmt.Errorf("looking for raft's state in %s: %w; check the disk", cfg.DataDir, err)
	}
	dir, err := openDataDir(cfg.DataDir, cfg, hasState)
	if err != nil {
		return nil, nil, err
	}
	err = snaps.settle(reach{s.from, s.last.index})
	return snaps, dir, err
}

// start runs raft and the loops on what it stands on. On an error the closers are left to the caller.
func start(cfg Config, p plumbing) (*Registry, error) {
	notify := make(chan bool, 16)
	conf, err := cfg.raftConfig(notify)
	if err != nil {
		return nil, err
	}
	r := &Registry{
		cfg: cfg, log: cfg.Logger, clusterID: p.clusterID, calls: p.calls, snaps: p.snaps, alarm: p.alarm, closers: p.closers,
		fsm: fsm.New(p.alarm.raise), started: time.Now(), dir: p.dir, expel: p.expel, removed: make(chan struct{}), met: newAcquaintances(),
		releases: p.releases, following: newFollowing(), leadership: make(chan struct{}, 1), drained: make(chan struct{}), caught: make(chan struct{}),
	}
	r.checks, r.dog = newChecker(r.condemn), newWatchdog()
	r.fsm.OnCheck(r.checks.marked)
	r.guard = peer.NewGuard(p.transport, cfg.Logger.Named("guard"))
	told := newNotices(r.guard, p.wires)
	logs, stable := leadingLogs{watchedLogs{p.logs, r.dog}, told}, watchedStable{p.stable, r.dog}
	if r.raft, err = raft.NewRaft(conf, tellingFSM{r.fsm, told}, logs, stable, p.snaps, told); err != nil {
		err = errors.Join(err, told.Close())
		return nil, fmt.Errorf("starting raft of server %q: %w; if its data is damaged, leave the server off: an older copy of %s forgets votes (docs/operations.md)", cfg.ID, err, cfg.DataDir)
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.commits = newCommitter(r.raft.Apply)
	r.confirms = newConfirmer(r.raft.Barrier, func() uint64 { return r.fsm.State().Index() })
	p.opened(r)
	r.guard.Start(r.facts())
	told.of(r.raft, r.commits.waits)
	r.compareList()
	r.raft.RegisterObserver(r.following.observer())
	r.drain.Go(func() { r.drainNotify(notify) })
	r.drain.Go(func() { r.following.run(r.drained) })
	r.drain.Go(r.watchDisk)
	r.wg.Go(func() { r.commits.run(r.ctx) })
	r.wg.Go(func() { r.confirms.run(r.ctx) })
	r.wg.Go(func() { r.checks.run(r.ctx) })
	r.wg.Go(r.watchSpace)
	r.wg.Go(r.reconcileLoop)
	r.wg.Go(r.catchUp)
	r.wg.Go(r.watchRemovals)
	r.wg.Go(r.meetOthers)
	return r, nil
}

// Dropped is how many requests and answers of other servers were kept from raft since the start, see [peer.Guard].
func (r *Registry) Dropped() uint64 { return r.guard.Dropped() }

// Fatal delivers the first error after which this server must not go on. The process should end then: a disk that
// failed once may report success for pages it dropped (RAFT trap 13).
func (r *Registry) Fatal() <-chan error { return r.alarm.fatal }

// Close hands over leadership, takes a snapshot if that is worthwhile, and stops everything in the reverse order of
// Open (RAFT trap 18). It may be called twice.
//
// What waits for one of raft's futures ends before raft does: a running raft answers every one, at the latest when it
// finds that it lost its majority, but one that is shut down forgets those that had reached the queue of the state machine.
func (r *Registry) Close() error {
	r.closeOnce.Do(func() {
		r.closing.Store(true) // no new proposals; those in flight may still reach the next leader
		if r.alarm.stopped(r.cfg.ID) == nil {
			r.handOver()
			r.lastSnapshot()
		} // else its log takes nothing any more, and its state may be what is wrong
		r.cancel()
		r.spawning.Lock()
		r.spawned = true
		r.spawning.Unlock()
		r.futures.Wait()
		r.wg.Wait()
		err := r.raft.Shutdown().Error() // closes the transport
		close(r.drained)
		r.drain.Wait()
		r.closeErr = errors.Join(err, closeAll(r.closers))
	})
	return r.closeErr
}

// await runs f, which waits for one of raft's futures; false when Close no longer waits for such.
func (r *Registry) await(f func()) bool {
	r.spawning.Lock()
	defer r.spawning.Unlock()
	if r.spawned {
		return false
	}
	r.futures.Go(f)
	return true
}

// handOver saves the others an election timeout. It writes a barrier first: a leader without a majority has nobody to
// hand over to, and raft would leave a goroutine behind for ever that waits for a follower to catch up.
func (r *Registry) handOver() {
	for range transferTries {
		if r.raft.State() != raft.Leader || votersIn(r.servers()) == 1 {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), transferTimeout)
		_, err := r.confirms.confirm(ctx)
		if err == nil {
			err = r.transferHere(ctx, "")
		}
		cancel()
		if err == nil {
			return
		}
		r.log.Warn("handing over leadership failed", "error", err)
	}
}

// lastSnapshot spares the next start the replay of a long log.
func (r *Registry) lastSnapshot() {
	list, err := r.snaps.List()
	if err != nil {
		r.log.Warn("listing snapshots failed", "error", err)
		return
	}
	last := uint64(0)
	if len(list) > 0 {
		last = list[0].Index
	}
	s := r.fsm.State()
	many := s.Scopes().Len() >= manyScopes && s.Index() > last
	if !many && s.Index() <= last+r.cfg.SnapshotThreshold/worthwhile {
		return
	}
	r.log.Info("taking a snapshot on the way out", "index", s.Index())
	// There is no giving up: raft could not be shut down before its snapshot is written either.
	if err := r.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		r.log.Warn("the snapshot on the way out failed", "error", err)
	}
}

func closeAll(closers []func() error) error {
	var errs []error
	for _, c := range closers {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}
