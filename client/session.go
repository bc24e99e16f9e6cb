package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/boottime"
	"github.com/scope-registry/scope-registry/scope"
)

// stopTime is what the methods of a store get to stop when the session ends: a
// batch takes far less.
const stopTime = 5 * time.Second

// SessionConfig says for which node a process speaks, and with what.
type SessionConfig struct {
	// Node is its id. It must be declared, see [Client.SetNode], before the session
	// can open.
	Node string
	// DataDir is a directory of the session's own, beside the node's data and as old:
	// identity, token, marks of moves. It is made if it is not there, and locked while
	// the session lives.
	DataDir string
	// Store has the node take part in moves of mode agent. Without one they are
	// aborted; [NoData] is for nodes whose data is elsewhere.
	Store Store
	// OpenStore makes the store, in place of Store, once the data dir is this process's, and before anything is told to the
	// registry. It is for a store that itself must have one process: what it does to those before it must not be done by a
	// second process that is about to be refused the directory. identity is the directory's. Its error is StartSession's.
	OpenStore func(identity string) (Store, error)
	// Send carries slices to other nodes; nil is [HTTPSend] of nil.
	Send Send
	// Grace passes between a flip and the deletion of the old copy; 0 is an hour.
	Grace time.Duration
	// RefuseUnscoped has the guard refuse keys that no scope holds. They are accepted
	// otherwise, on every node.
	RefuseUnscoped bool
	// Log gets what an operator may have to know; nil is nobody.
	Log *slog.Logger
}

// Status is a session at one time.
type Status struct {
	Node    string `json:"node"`
	Session string `json:"session,omitempty"` // id; "" if none is open
	Ready   bool   `json:"ready"`             // writes are admitted, leases aside
	Fault   string `json:"fault,omitempty"`   // what an operator has to mend
	Waiting string `json:"waiting,omitempty"` // why it is not ready
	Index   uint64 `json:"index"`             // of the view
	AgeMS   int64  `json:"age_ms"`            // since a server confirmed the view: a second at most while all is well; before the first, since the start
	LeaseMS int64  `json:"lease_left_ms"`     // 0 is none: scopes that need one are not written
}

// Session is the right of this process to speak for its node, kept up: it follows
// the registry, renews its lease, opens anew when it was lost, and does the node's
// part in moves. It is safe for use by many goroutines.
type Session struct {
	c     *Client
	cfg   SessionConfig
	log   *slog.Logger
	dir   *dataDir
	adm   *agent.Admission
	guard *Guard

	told    chan told
	force   chan struct{} // closed: end without the registry
	forcing sync.Once
	ended   chan struct{} // closed after the last step
	now     atomic.Pointer[moment]

	ctx     context.Context // of what the effects begin
	cancel  context.CancelFunc
	effects sync.WaitGroup
	ship    *shipper
	next    atomic.Uint32 // endpoint that the next watch asks first; 0 is that of the client's next
	receive *receiver
	handler http.Handler // one, for its bound of memory

	// For the goroutine that steps only.
	watching context.CancelFunc
	moves    map[string]life

	mu     sync.Mutex // guards what follows
	saying map[agent.Word]bool
	notes  map[string]string // newest trouble, by what it is about
}

// told is an event on its way into the state.
type told struct {
	event agent.Event
	taken chan struct{} // closed when the state has it
}

// moment is the state between two steps.
type moment struct {
	state agent.State
	next  chan struct{} // closed when there is another
}

// life is that of what runs for a move.
type life struct {
	ctx    context.Context
	cancel context.CancelFunc
}

// StartSession takes the data dir for this process and begins to follow the
// registry, to open a session and to keep it. It does not wait for any server;
// until [Session.WaitReady] returns every write is refused. It fails if the
// directory is another process's, another node's, damaged or cannot be written.
// [Session.Close] ends it; the client must live as long.
func StartSession(c *Client, cfg SessionConfig) (*Session, error) {
	if err := scope.NodeID(cfg.Node).Check(); err != nil {
		return nil, fmt.Errorf("session: node: %w", err)
	}
	if cfg.DataDir == "" {
		return nil, fmt.Errorf("session of node %q: no data dir is given; name a directory beside the node's data", cfg.Node)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Send == nil {
		cfg.Send = HTTPSend(nil)
	}
	dir, err := openDataDir(cfg.DataDir, cfg.Node)
	if err != nil {
		return nil, err
	}
	if cfg.OpenStore != nil {
		if cfg.Store, err = cfg.OpenStore(dir.identity()); err != nil {
			return nil, errors.Join(err, dir.close())
		}
	}
	if cfg.Store == nil {
		cfg.Store = noStore{cfg.Node}
	}
	s := &Session{c: c, cfg: cfg, dir: dir, log: cfg.Log.With("node", cfg.Node), told: make(chan told), force: make(chan struct{}),
		ended: make(chan struct{}), moves: map[string]life{}, saying: map[agent.Word]bool{}, notes: map[string]string{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	marks, err := dir.held()
	if err == nil {
		err = s.settle(marks)
	}
	if err == nil {
		err = dir.found()
	}
	if err != nil {
		s.cancel()
		return nil, errors.Join(err, dir.close())
	}
	state := agent.New(agent.Config{Node: scope.NodeID(cfg.Node), Identity: dir.identity(), Times: api.DefaultLeases(), Grace: cfg.Grace,
		Stripes: runtime.GOMAXPROCS(0), RefuseUnknown: cfg.RefuseUnscoped}, boottime.Now(), marks)
	s.adm = agent.NewAdmission(state)
	s.guard = newGuard(s.adm, boottime.Now)
	s.now.Store(&moment{state, make(chan struct{})})
	s.ship = newShipper(cfg.Node, cfg.Store, cfg.Send, s.addr, s.tell, s.log)
	s.receive = newReceiver(cfg.Node, cfg.Store, s.adm.Rules, dir.mark, s.tell, s.log)
	s.handler = sliceHandler(s.Receive, s.mayCome)
	go s.run()
	return s, nil
}

// settle compares what the store has staged with the marks: what was not sealed
// goes, its stream is over; what was sealed must be there, or the promotion of it
// would empty the scope.
func (s *Session) settle(marks []agent.Mark) error {
	staged, err := s.cfg.Store.Staged(s.ctx)
	if err != nil {
		return fmt.Errorf("session of node %q: the store does not say what it has staged: %w", s.cfg.Node, err)
	}
	for _, m := range marks {
		if !m.Promoted && m.Manifest.Keys > 0 && !slices.Contains(staged, m.Move) {
			return fmt.Errorf("session of node %q: the slice of move %s (%d keys of %q) was sealed here, and the store does not have it any more: "+
				"%s and the node's data are not of the same time; restore both together, or empty both and have an admin fence the node",
				s.cfg.Node, m.Move, m.Manifest.Keys, m.Prefix, s.cfg.DataDir)
		}
	}
	if len(staged) > 0 && s.dir.fresh {
		return fmt.Errorf("session of node %q: the store has slices staged (of move %s), and the data dir %s is new: nobody knows whether they are all that is left of a scope; "+
			"give the data dir that belongs to the store, or discard what is staged and have an admin fence the node", s.cfg.Node, staged[0], s.cfg.DataDir)
	}
	for _, move := range staged {
		if m, marked := s.dir.mark(move); marked && !m.Promoted {
			continue
		}
		if err := s.cfg.Store.Discard(s.ctx, move); err != nil {
			return fmt.Errorf("session of node %q: what is staged of move %s is not needed any more and cannot be deleted: %w", s.cfg.Node, move, err)
		}
	}
	return nil
}

// run steps the state until it has stopped, or is forced to.
func (s *Session) run() {
	defer close(s.ended)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for !s.now.Load().state.Stopped() {
		select {
		case t := <-s.told:
			s.step(t.event)
			close(t.taken)
		case <-timer.C:
			s.step(agent.Tick{})
		case <-s.force:
			// Nothing is admitted any more since the shutdown began, and what is under way
			// is not acknowledged either from here on: no view will tell whether it may be.
			s.step(agent.Closed{Session: s.now.Load().state.Session()})
			return
		}
		timer.Reset(s.untilDue())
	}
}

// untilDue is when to step next without an event; a timer counts by another clock,
// so that it comes late after a suspend, as everything does.
func (s *Session) untilDue() time.Duration {
	due := s.now.Load().state.Due()
	if due == 0 {
		return time.Hour
	}
	return max(0, due-boottime.Now())
}

func (s *Session) step(e agent.Event) {
	was := s.now.Load()
	state, effects := agent.Step(was.state, boottime.Now(), e)
	for _, f := range effects {
		if p, ok := f.(agent.Publish); ok {
			s.adm.Publish(p.Rules) // before anybody can see, or begin, what follows from it
		}
	}
	s.now.Store(&moment{state, make(chan struct{})})
	s.report(was.state, state)
	for _, f := range effects {
		s.effect(f)
	}
	close(was.next)
}

// report logs what an operator may ask for later.
func (s *Session) report(was, is agent.State) {
	switch {
	case is.Stopped() && !was.Stopped():
		s.log.Info("the session is closed", "session", was.Session())
	case is.Session() != was.Session() && was.Session() != "":
		s.log.Warn("the session is lost", "session", was.Session(), "index", is.View().Index())
	case is.Ready() && !was.Ready():
		s.log.Info("the session is ready", "session", is.Session(), "index", is.View().Index())
	}
	if is.Fault() != was.Fault() && is.Fault() != "" {
		s.log.Error("the node does not serve", "fault", is.Fault())
	}
}

// tell hands an event to the state and waits until the state has it. After the end
// it does nothing.
func (s *Session) tell(e agent.Event) {
	t := told{e, make(chan struct{})}
	select {
	case s.told <- t:
		<-t.taken
	case <-s.ended:
	}
}

// begin runs what takes time.
func (s *Session) begin(f func(ctx context.Context)) { s.beginWith(s.ctx, f) }

func (s *Session) beginWith(ctx context.Context, f func(ctx context.Context)) {
	s.effects.Go(func() { f(ctx) })
}

// Guard is what every write goes through.
func (s *Session) Guard() *Guard { return s.guard }

// View is what the session knows of the registry now.
func (s *Session) View() View { return View{s.now.Load().state.View()} }

// Changed returns a channel that is closed once something may have changed that the
// guard decides by: the table, moves, the session, the lease. Take it, look, then
// wait: what changes after the look closes it. A registry that is well closes it
// every second.
func (s *Session) Changed() <-chan struct{} { return s.now.Load().next }

// addr is where a node is reached.
func (s *Session) addr(node scope.NodeID) string { return s.now.Load().state.View().Addr(node) }

// Status says how the session is.
func (s *Session) Status() Status {
	state := s.now.Load().state
	out := Status{Node: s.cfg.Node, Session: state.Session(), Ready: state.Ready(), Fault: state.Fault(), Index: state.View().Index(),
		AgeMS: max(0, boottime.Now()-state.Heard()).Milliseconds()}
	if left := state.LeaseUntil() - boottime.Now(); state.LeaseUntil() > 0 && left > 0 {
		out.LeaseMS = left.Milliseconds()
	}
	if !out.Ready {
		out.Waiting = s.waiting(state)
	}
	return out
}

// waiting says why the session is not ready.
func (s *Session) waiting(state agent.State) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case state.Stopped():
		return "the session is closed"
	case state.Fault() != "":
		return state.Fault()
	case state.View().Index() == 0:
		return "no server has sent the table yet" + after(s.notes["watch"])
	case state.Session() == "":
		return "no session is open yet" + after(s.notes["open"])
	default:
		return fmt.Sprintf("the view is at index %d and does not show the session yet", state.View().Index()) + after(s.notes["watch"])
	}
}

func after(note string) string {
	if note == "" {
		return ""
	}
	return ": " + note
}

// note keeps the newest trouble about something, "" for none, and logs it once.
func (s *Session) note(about, trouble string) {
	s.mu.Lock()
	was := s.notes[about]
	if s.notes[about] = trouble; trouble == "" {
		delete(s.notes, about)
	}
	s.mu.Unlock()
	if trouble != "" && trouble != was {
		s.log.Warn(about+" failed and is tried again", "error", trouble)
	}
}

// WaitReady returns when writes are admitted, leases aside. It fails when ctx
// ends, with what the session waits for, or when the session is closed.
func (s *Session) WaitReady(ctx context.Context) error {
	for {
		now := s.now.Load()
		if now.state.Ready() {
			return nil
		}
		select {
		case <-now.next:
		case <-s.ended:
			return &Error{Code: api.LeaseLost, Owner: s.cfg.Node, Detail: fmt.Sprintf("the session of node %q is closed", s.cfg.Node)}
		case <-ctx.Done():
			return &Error{Code: api.Timeout, Owner: s.cfg.Node, Detail: fmt.Sprintf("node %q is not ready: %s", s.cfg.Node, s.waiting(now.state))}
		}
	}
}

// Receive takes a batch of a slice that moves to this node. It is what the other
// end of a [Send] calls; [Session.Handler] does over HTTP.
func (s *Session) Receive(ctx context.Context, b *Batch) error { return s.receive.take(ctx, b) }

// Handler takes batches over HTTP; mount it at [SlicePath] of the node's address.
func (s *Session) Handler() http.Handler { return s.handler }

// Close admits no more writes, waits for those under way, gives the session up,
// and the data dir back. If ctx ends before the registry has heard of it, the
// session is left to expire. If a write or the store is still at work, that is the
// error, and the data dir stays this process's until it ends: no other process of
// the node may begin before.
func (s *Session) Close(ctx context.Context) error {
	s.tell(agent.Shutdown{})
	var left error
	select {
	case <-s.ended:
	case <-ctx.Done():
		s.forcing.Do(func() { close(s.force) })
		<-s.ended
		left = fmt.Errorf("session of node %q: it was not closed at the registry and expires by itself: %w", s.cfg.Node, ctx.Err())
	}
	s.cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.effects.Wait()
		s.receive.close()
	}()
	stop := time.NewTimer(stopTime)
	defer stop.Stop()
	select {
	case <-done:
	case <-stop.C:
		s.dir.keep()
		return errors.Join(left, fmt.Errorf("session of node %q: the store is still at work for a move %v after it was told to stop; the data dir stays locked until the process ends",
			s.cfg.Node, stopTime))
	}
	if !s.adm.Idle() {
		s.dir.keep()
		return errors.Join(left, fmt.Errorf("session of node %q: writes are still under way; the data dir stays locked until the process ends", s.cfg.Node))
	}
	if err := s.dir.close(); !errors.Is(err, os.ErrClosed) { // by an earlier Close
		left = errors.Join(left, err)
	}
	return left
}
