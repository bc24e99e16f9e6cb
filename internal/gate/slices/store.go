package slices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/gate/upstream"
	"github.com/scope-registry/scope-registry/scope"
)

// Config says how slices move.
type Config struct {
	// Dir is a directory in the gate's data dir, as old as that. It is made if it is not there.
	Dir string
	// Replace has a slice that comes here replace what the store holds under its prefix, which is deleted when the first
	// record comes. Without it the move is aborted if the store holds anything there.
	Replace bool
	// Rate bounds, in bytes a second, how fast a scope that is still written is read for the first time; 0 is no bound.
	Rate int64
	Log  *slog.Logger
}

// markers is a hash in the store: by move, what is staged, and for which prefix.
const markers = upstream.Reserved + "staging"

// marker is the value of one: a state, a space and the prefix.
type marker struct {
	state  string
	prefix scope.Prefix
}

const (
	markStaging = "staging" // records may lack
	markSealed  = "sealed"  // it was written after the last record: the store that has it has all before it
)

func (m marker) String() string { return m.state + " " + string(m.prefix) }

func parseMarker(text []byte) marker {
	state, p, _ := strings.Cut(string(text), " ")
	return marker{state, scope.Prefix(p)}
}

var (
	_ client.Store   = (*Store)(nil)
	_ client.Settler = (*Store)(nil)
)

// Store is the [client.Store] of a gate.
type Store struct {
	cfg    Config
	up     Upstream
	limits limits
	log    *slog.Logger
	disk   *ledger
	ctx    context.Context // until Close
	stop   context.CancelFunc

	held atomic.Pointer[[]scope.Prefix] // that clients may not come near

	mu     sync.Mutex // guards what follows, and the disk
	stages map[string]*stage
	tracks map[string]*tracking // by move, of slices that go from here

	old old // for Clean, which is called by one goroutine
}

// stage is a slice on its target. But for the entry, which is guarded by Store.mu, it belongs to the goroutine that the move's
// method runs in.
type stage struct {
	entry
	link  link
	begun bool // marked by this process, and nothing but records of the move is there
	// run is that of the store in which this was so first; "" is none. It stays when begun ends.
	run  string
	was  health
	some sample
}

// Open reads what an earlier process has left. A slice of which the store has nothing, as it went back to a time before it
// came, is forgotten.
func Open(ctx context.Context, up Upstream, cfg Config) (*Store, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{cfg: cfg, up: up, log: cfg.Log, limits: usualLimits, stages: map[string]*stage{}, tracks: map[string]*tracking{}}
	s.old.link.up = up
	s.ctx, s.stop = context.WithCancel(context.Background())
	var err error
	if s.disk, err = openLedger(cfg.Dir); err != nil {
		return nil, err
	}
	if err := s.load(ctx); err != nil {
		return nil, errors.Join(err, s.disk.close())
	}
	s.publish()
	return s, nil
}

func (s *Store) load(ctx context.Context) error {
	there, err := s.markers(ctx)
	if err != nil {
		return err
	}
	for _, e := range s.disk.all {
		if _, marked := there[e.Move]; e.Phase == staging && !marked && !e.Empty {
			s.log.Warn("the store has lost what was staged", "move", e.Move, "scope", e.prefix().Text())
			if err := s.disk.drop(e.Move); err != nil {
				return err
			}
			continue
		}
		s.stages[e.Move] = s.newStage(e)
	}
	return nil
}

func (s *Store) newStage(e entry) *stage {
	return &stage{entry: e, link: link{up: s.up}, some: newSample()}
}

// Close closes the connections. It is called when the session is closed, and has what still waits give up.
func (s *Store) Close() {
	s.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.stages {
		st.link.close()
	}
	s.old.link.close()
	if err := s.disk.close(); err != nil {
		s.log.Warn("the file of what is staged is not closed", "error", err)
	}
}

// publish puts in force what is held. mu is held, or nobody else has the store yet.
func (s *Store) publish() {
	var held []scope.Prefix
	for _, st := range s.stages {
		if st.Phase == staging {
			held = append(held, st.prefix())
		}
	}
	s.held.Store(&held)
}

// Holds reports whether a slice is being staged, or wiped, to which key belongs. Nobody may read or write it, whatever the
// registry says: what is there may be half of a slice, and may be deleted at any time. It takes no lock. A write is asked for
// after it was admitted. One that was admitted before the node could see the move is no matter of Holds: the session stages
// nothing while any such write counts under the prefix.
func (s *Store) Holds(key []byte) bool {
	for _, p := range *s.held.Load() {
		if p.Matches(key) {
			return true
		}
	}
	return false
}

// markers asks the store what it has staged.
func (s *Store) markers(ctx context.Context) (map[string]marker, error) {
	l := link{up: s.up, reads: true}
	defer l.close()
	r, err := l.ask(ctx, "HGETALL", markers)
	if err != nil {
		return nil, fmt.Errorf("the store does not say what is staged in it: %w", err)
	}
	out := map[string]marker{}
	for i := 0; i+1 < len(r.items); i += 2 {
		out[string(r.items[i].text)] = parseMarker(r.items[i+1].text)
	}
	return out, nil
}

// Staged implements [client.Store]: what the store has marked, and what was promoted and is not forgotten yet.
func (s *Store) Staged(ctx context.Context) (moves []string, err error) {
	there, err := s.markers(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for move := range s.stages {
		moves = append(moves, move)
		delete(there, move)
	}
	for move := range there {
		moves = append(moves, move)
	}
	return moves, nil
}

// stage returns what is known of a move; nil is nothing.
func (s *Store) stage(move string) *stage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stages[move]
}

// claim closes the prefix of a slice to clients, for good until it is promoted or wiped.
func (s *Store) claim(slice client.Slice) (*stage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stages[slice.Move]
	switch {
	case st == nil:
		for _, other := range s.stages {
			if other.Phase == staging && other.prefix().Overlaps(slice.Prefix) {
				return nil, fmt.Errorf("what move %s has staged under %q is still there, and is being deleted; start the move again a little later", other.Move, other.prefix())
			}
		}
	case st.Phase != staging || st.prefix() != slice.Prefix:
		return nil, fmt.Errorf("move %s has staged %q here before (%s) and cannot stage %q", slice.Move, st.prefix(), st.Phase, slice.Prefix)
	default:
		return st, nil
	}
	st = s.newStage(entry{Move: slice.Move, Prefix: slice.Prefix.Bytes(), Phase: staging})
	if err := s.disk.put(st.entry); err != nil {
		return nil, err
	}
	s.stages[slice.Move] = st
	s.publish()
	return st, nil
}

// Promote implements [client.Store]. What is under the prefix already is the node's own from here on, and the file says so
// before the marker goes: no Discard that comes later, and no store that goes back in time, has it wiped.
func (s *Store) Promote(ctx context.Context, slice client.Slice) error {
	st := s.stage(slice.Move)
	if st == nil {
		return fmt.Errorf("nothing is staged for move %s; what the store holds under %q stays as it is", slice.Move, slice.Prefix)
	}
	if st.Phase == staging {
		if err := st.intact(ctx); err != nil {
			return err
		}
		next := st.entry
		next.Phase = promoted
		if err := s.put(st, next); err != nil {
			return err
		}
	}
	if _, err := st.link.ask(ctx, "HDEL", markers, st.Move); err != nil {
		return err
	}
	st.link.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.publish()
	return nil
}

// intact sees that the store has what was staged and settled. Of an empty slice nothing can be lost, but what was deleted
// before it came may be back.
func (st *stage) intact(ctx context.Context) error {
	r, err := st.link.ask(ctx, "HGET", markers, st.Move)
	switch {
	case err != nil:
		return err
	case parseMarker(r.text) == marker{markSealed, st.prefix()}:
		return nil
	case !st.Empty:
		return fmt.Errorf("the store has lost records that move %s had staged under %q: it was restarted, and what it keeps on disk is older; "+
			"the source still has them until its grace time is over: give the scope back to it with `scope force`", st.Move, st.prefix())
	}
	there, err := look(ctx, &st.link, st.prefix())
	if err != nil || there.keys == 0 {
		return err
	}
	return fmt.Errorf("move %s brought no keys under %q, and the store holds %d there, such as %q: it was restarted, and what it keeps on disk is older than the move; delete them in the store itself",
		st.Move, st.prefix(), there.keys, scope.BytesText(there.one))
}

// put notes it on the disk. The prefix stays held until publish.
func (s *Store) put(st *stage, next entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.disk.put(next); err != nil {
		return err
	}
	st.entry = next
	return nil
}

// Discard implements [client.Store]. It wipes the prefix only if the disk says that it has been closed to clients ever since
// the staging began, and the store that it is what was staged there; or, where the store has evicted the marker with keys of
// others, if this process has staged it in the same run of the store.
func (s *Store) Discard(ctx context.Context, move string) error {
	st := s.stage(move)
	if st == nil {
		return s.unmark(ctx, move)
	}
	if st.Phase == staging {
		if err := s.wipe(ctx, st); err != nil {
			return err
		}
	}
	if _, err := st.link.ask(ctx, "HDEL", markers, move); err != nil {
		return err
	}
	st.link.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.disk.drop(move); err != nil {
		return err
	}
	delete(s.stages, move)
	s.publish()
	if err := s.disk.finish(); err != nil {
		s.log.Warn("what is staged is not noted in all copies, and will be with the next change", "error", err)
	}
	return nil
}

func (s *Store) wipe(ctx context.Context, st *stage) error {
	st.begun = false
	r, err := st.link.ask(ctx, "HGET", markers, st.Move)
	if err != nil {
		return err
	}
	ours := !r.null && parseMarker(r.text).prefix == st.prefix()
	if !ours && st.run != "" {
		is, err := healthOf(ctx, &st.link)
		if err != nil {
			return err
		}
		ours = is.run == st.run
	}
	if !ours {
		// Nothing came yet, or the store has gone back to a time before: then what it has there is not what was staged.
		s.log.Info("nothing of the slice is in the store, and nothing is wiped", "move", st.Move, "scope", st.prefix().Text())
		return nil
	}
	gone, err := wipe(ctx, &st.link, st.prefix())
	if err != nil {
		return fmt.Errorf("wiping what is staged under %q: %w", st.prefix(), err)
	}
	s.log.Info("what was staged is wiped", "move", st.Move, "scope", st.prefix().Text(), "keys", gone)
	return nil
}

// unmark deletes the marker of a slice of which the disk knows nothing: it was promoted, and the store has gone back in time
// since. What is under its prefix is the node's own.
func (s *Store) unmark(ctx context.Context, move string) error {
	there, err := s.markers(ctx)
	if err != nil {
		return err
	}
	m, marked := there[move]
	if !marked {
		return nil
	}
	s.log.Warn("the store has gone back to a time before a slice was put in force here; what was written there since may be lost", "move", move, "scope", m.prefix.Text())
	l := link{up: s.up}
	defer l.close()
	if _, err = l.ask(ctx, "HDEL", markers, move); err != nil {
		return s.certainly(&l, err)
	}
	return nil
}

// certainly returns an error once nothing of what failed with it can execute any more, however long that takes.
func (s *Store) certainly(l *link, err error) error {
	if sure := l.sure(s.ctx); sure != nil {
		s.log.Error("it is not certain that a lost connection to the store is gone there", "error", sure)
	}
	return err
}
