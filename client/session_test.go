package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// wants fails unless err is of a code.
func wants(t *testing.T, err, want error) {
	t.Helper()
	_ = refusedAs(t, err, want) // for its check
}

func refusedAs(t *testing.T, err, want error) *Error {
	t.Helper()
	var e *Error
	if !errors.Is(err, want) || !errors.As(err, &e) {
		t.Fatalf("got %v, want %v", err, want)
	}
	return e
}

func TestGuardRefusesWhatIsNotItsOwn(t *testing.T) {
	s := startServer(t)
	a, b := s.node("a"), s.node("b")
	epoch := s.declare(a.c, "x:", api.Declare{Writer: "a"}, a, b)
	s.declare(a.c, "y:", api.Declare{Writer: "a"}, a, b)
	var got Token
	err := a.Guard().Write(t.Context(), []byte("x:1"), func(_ context.Context, k Token) error { got = k; return nil })
	if err != nil || got.Epoch != epoch || got.Incarnation == 0 {
		t.Errorf("%v, with token %+v, want epoch %d", err, got, epoch)
	}
	if e := refusedAs(t, b.put("x:1", "v"), ErrMisdirected); e.Addr != a.front.Listener.Addr().String() || e.Owner != "a" || e.Detail != "writer is "+e.Addr {
		t.Errorf("%+v", e)
	}
	if len(b.store.under("")) != 0 {
		t.Error("what was refused was written")
	}
	if err := b.put("of nobody", "v"); err != nil {
		t.Errorf("a key of no scope: %v", err)
	}
	one := func(_ context.Context, _ Token) error { return nil }
	wants(t, a.Guard().WriteKeys(t.Context(), [][]byte{[]byte("x:1"), []byte("y:1")}, one), ErrCrossScope)
	if err := a.Guard().WriteKeys(t.Context(), [][]byte{[]byte("x:1"), []byte("x:2")}, one); err != nil {
		t.Error(err)
	}
	refusal := errors.New("disk full")
	if err := a.Guard().Write(t.Context(), []byte("x:1"), func(context.Context, Token) error { return refusal }); err != refusal {
		t.Errorf("%v", err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Guard().Write(over, []byte("x:1"), func(context.Context, Token) error { t.Error("it ran"); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	a.stop()
	wants(t, a.put("x:1", "v"), ErrLeaseLost)
	if err := a.WaitReady(t.Context()); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("a closed session: %v", err)
	}
	if at := a.Status(); at.Ready || at.Waiting != "the session is closed" {
		t.Errorf("%+v", at)
	}
}

func TestRefuseUnscoped(t *testing.T) {
	s := startServer(t)
	a := s.node("a")
	a.stop()
	a.cfg.RefuseUnscoped = true
	a.start()
	wants(t, a.put("of nobody", "v"), ErrMisdirected)
}

// A scope moves with its records, there and back, and old copies go.
func TestScopeMovesBetweenSessions(t *testing.T) {
	for _, precopy := range []bool{false, true} {
		t.Run(fmt.Sprintf("precopy %t", precopy), func(t *testing.T) {
			s := startServer(t)
			a, b := s.node("a"), s.node("b")
			s.declare(a.c, "x:", api.Declare{Writer: "a"}, a, b)
			for i := range 2500 {
				if err := a.put(fmt.Sprintf("x:%d", i), fmt.Sprint(i)); err != nil {
					t.Fatal(err)
				}
			}
			b.store.put("x:stale", "of long ago")
			m := s.move(a.c, api.StartMove{Prefix: "x:", From: "a", To: "b", PreCopy: precopy})
			if m.Phase != "done" || m.Shipped.Keys != 2500 || *m.Shipped != *m.Ready {
				t.Fatalf("%+v", m)
			}
			s.eventually("b serves", func() error { return b.put("x:1", "b's") })
			b.holds("x:2499", "2499")
			if _, there := b.store.get("x:stale"); there {
				t.Error("the slice was merged with what was there")
			}
			s.seen(b.View().Index(), a)
			if e := refusedAs(t, a.put("x:1", "a's"), ErrMisdirected); e.Owner != "b" {
				t.Errorf("%+v", e)
			}
			s.eventually("a's copy is gone", func() error {
				if n := len(a.store.under("")); n != 0 {
					return fmt.Errorf("%d records are left", n)
				}
				got, err := a.c.Move(t.Context(), m.ID, 0)
				if err == nil && got.Cleanup != "" {
					err = fmt.Errorf("cleanup is %s", got.Cleanup)
				}
				return err
			})
			if m = s.move(b.c, api.StartMove{Prefix: "x:", From: "b", To: "a", PreCopy: precopy}); m.Phase != "done" {
				t.Fatalf("%+v", m)
			}
			s.eventually("a serves", func() error { return a.put("x:2", "a's") })
			if a.holds("x:1", "b's"); len(a.store.under("")) != 2500 {
				t.Errorf("there are %d records", len(a.store.under("")))
			}
			s.eventually("nothing is staged", func() error {
				if moves, err := a.store.Staged(t.Context()); err != nil || len(moves) > 0 {
					return fmt.Errorf("%v %w", moves, err)
				}
				return nil
			})
		})
	}
}

// A write whose execution somebody else follows counts until he has seen its end,
// and is not acknowledged when the scope went meanwhile; of several keys in two scopes
// none is admitted, whoever owns them.
func TestAdmittedWritesAreFollowedByTheCaller(t *testing.T) {
	s := startServer(t)
	a, b := s.node("a"), s.node("b")
	s.declare(a.c, "x:", api.Declare{Writer: "a"}, a, b)
	epoch := s.declare(a.c, "y:", api.Declare{Writer: "b"}, a, b)
	for _, keys := range [][][]byte{{[]byte("x:1"), []byte("y:1")}, {[]byte("y:1"), []byte("x:1")}, {[]byte("y:1"), []byte("of nobody")}} {
		_, err := a.Guard().AdmitKeys(keys)
		if e := refusedAs(t, err, ErrCrossScope); !strings.Contains(e.Detail, `"y:"`) {
			t.Errorf("%s does not name the scope", e.Detail)
		}
	}
	_, err := a.Guard().Admit([]byte("y:1"))
	wants(t, err, ErrMisdirected)
	w, err := a.Guard().AdmitKeys([][]byte{[]byte("x:1"), []byte("x:2")})
	if err != nil || !w.Scoped() || w.Check() != nil || w.Token().Epoch == 0 || w.Token().Epoch == epoch {
		t.Fatalf("%v, token %+v", err, w.Token())
	}
	free, err := a.Guard().Admit([]byte("of nobody"))
	if err != nil || free.Scoped() || free.Check([]byte("of nobody")) != nil {
		t.Fatal(err)
	}
	changed := a.Changed()
	begun, err := a.c.StartMove(t.Context(), api.StartMove{Prefix: "x:", From: "a", To: "b"})
	if err != nil {
		t.Fatal(err)
	}
	<-changed
	s.eventually("the scope is closed", func() error {
		if err := a.put("x:1", "v"); !errors.Is(err, ErrQuiesced) {
			return fmt.Errorf("a write gets %w", err)
		}
		return nil
	})
	if m, err := a.c.Move(t.Context(), begun.ID, 0); err != nil || m.Phase != "quiescing" {
		t.Errorf("the move did not wait: %v %v", m.Phase, err)
	}
	s.eventually("the target knows of the move", func() error {
		if err := b.Guard().Serves([]byte("x:1")); !errors.Is(err, ErrMisdirected) {
			return fmt.Errorf("a read at the target gets %w", err)
		}
		return nil
	})
	w.Done()
	free.Done()
	s.eventually("b serves", func() error { return b.put("x:1", "b's") })
	s.seen(b.View().Index(), a)
	wants(t, w.Check(), ErrOutcomeUnknown)
}

// A write that is under way holds the move back, also if its client is gone, and
// one that panics does not hold it for ever.
func TestMoveWaitsForWrites(t *testing.T) {
	s := startServer(t)
	a, b := s.node("a"), s.node("b")
	s.declare(a.c, "x:", api.Declare{Writer: "a"}, a, b)
	func() {
		defer func() { _ = recover() }()
		_ = a.Guard().Write(t.Context(), []byte("x:0"), func(context.Context, Token) error { panic("of the store") })
	}()
	inside, goOn := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	left, leave := context.WithCancel(t.Context())
	go func() {
		done <- a.Guard().Write(left, []byte("x:1"), func(context.Context, Token) error {
			close(inside)
			<-goOn
			a.store.put("x:1", "late")
			return nil
		})
	}()
	<-inside
	leave()
	m, err := a.c.StartMove(t.Context(), api.StartMove{Prefix: "x:", From: "a", To: "b"})
	if err != nil {
		t.Fatal(err)
	}
	s.eventually("a is closed", func() error {
		if err := a.put("x:2", "v"); !errors.Is(err, ErrQuiesced) {
			return fmt.Errorf("%w", err)
		}
		return nil
	})
	if e := refusedAs(t, a.put("x:2", "v"), ErrQuiesced); e.RetryMS <= 0 || e.Addr != b.front.Listener.Addr().String() {
		t.Errorf("%+v", e)
	}
	if now, err := a.c.Move(t.Context(), m.ID, 0); err != nil || now.Phase != "quiescing" {
		t.Fatalf("%+v %v", now, err)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Errorf("admitted before the close, the scope still a's: %v", err)
	}
	s.eventually("b serves", func() error { return b.put("x:2", "v") })
	b.holds("x:1", "late")
}

// Without the registry a leased scope is not written after the lease, one that
// nobody can take over is; and what began before is not acknowledged after.
func TestLeaseEnds(t *testing.T) {
	s := startServer(t)
	a, b := s.node("a"), s.node("b")
	s.declare(a.c, "x:", api.Declare{Writer: "a", Fallback: "b"}, a, b)
	s.declare(a.c, "y:", api.Declare{Writer: "a"}, a, b)
	s.eventually("a has a lease", func() error { return a.put("x:1", "v") })
	if left := a.Status().LeaseMS; left <= 0 || left > shortLeases.Lease.Milliseconds() {
		t.Errorf("%d ms are left of the lease", left)
	}
	goOn, done := standing(a.Guard(), "x:2")
	s.eventually("x: is armed", func() error { // else nobody may take it over
		if sc, err := b.c.Scope(t.Context(), "x:"); err != nil || !sc.Armed {
			return fmt.Errorf("%+v %w", sc, err)
		}
		return nil
	})
	a.link.cut.Store(true)
	s.eventually("a's lease has ended", func() error {
		if err := a.put("x:3", "v"); !errors.Is(err, ErrLeaseLost) {
			return fmt.Errorf("%w", err)
		}
		return nil
	})
	if err := a.put("y:1", "v"); err != nil {
		t.Errorf("nobody can take y: over: %v", err)
	}
	s.eventually("b takes over", func() error { return b.put("x:1", "b's") })
	close(goOn)
	wants(t, <-done, ErrOutcomeUnknown)
	a.link.cut.Store(false)
	a.srv.eventually("a is told", func() error {
		if err := a.put("x:1", "v"); !errors.Is(err, ErrMisdirected) {
			return fmt.Errorf("%w", err)
		}
		return nil
	})
	s.eventually("a writes y: again", func() error { return a.put("y:1", "v") })
}

// The next process of a node takes its session over at once, whatever the one
// before had time for.
func TestRestartTakesTheSessionOver(t *testing.T) {
	s := startServer(t)
	a := s.node("a")
	s.declare(a.c, "x:", api.Declare{Writer: "a"}, a)
	for _, spoil := range []func([]string) []string{
		func(all []string) []string { return all },
		func(all []string) []string { return append(all, "drawn, kept, and never sent to any server") },
	} {
		old := a.Status().Session
		a.die()
		wants(t, a.put("x:1", "v"), ErrLeaseLost)
		if err := a.dir.setTokens(spoil); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		a.start()
		if took := time.Since(began); took >= shortLeases.Deadline {
			t.Errorf("it took %v, as long as an expiry", took)
		}
		if now := a.Status(); now.Session == old || now.Session == "" {
			t.Errorf("%+v after session %s", now, old)
		}
		if err := a.put("x:1", "v"); err != nil {
			t.Error(err)
		}
		if tokens := a.dir.tokens(); len(tokens) != 1 {
			t.Errorf("%d tokens are kept", len(tokens))
		}
	}
}

// standing begins a write that stands in the store until goOn is closed.
func standing(g *Guard, key string) (goOn chan struct{}, done chan error) {
	inside, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- g.Write(context.Background(), []byte(key), func(context.Context, Token) error {
			close(inside)
			<-goOn
			return nil
		})
	}()
	<-inside
	return goOn, done
}

// A write that is under way when the process is told to stop, and does not end in
// time, keeps the data dir from the next process and is not acknowledged.
func TestCloseDoesNotWaitForEver(t *testing.T) {
	s := startServer(t)
	a := s.node("a")
	s.declare(a.c, "x:", api.Declare{Writer: "a"}, a)
	goOn, done := standing(a.Guard(), "x:2")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := a.Close(ctx); err == nil || !strings.Contains(err.Error(), "writes are still under way") {
		t.Fatalf("%v", err)
	}
	if _, err := StartSession(a.c, a.cfg); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("in use by process %d", os.Getpid())) {
		t.Errorf("%v", err)
	}
	close(goOn)
	wants(t, <-done, ErrOutcomeUnknown)
}

func TestCloseDrains(t *testing.T) {
	s := startServer(t)
	a := s.node("a")
	s.declare(a.c, "x:", api.Declare{Writer: "a"}, a)
	goOn, done := standing(a.Guard(), "x:2")
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		a.stop()
	}()
	s.eventually("nothing is admitted any more", func() error {
		if err := a.put("x:3", "v"); !errors.Is(err, ErrLeaseLost) {
			return fmt.Errorf("%w", err)
		}
		return nil
	})
	if n, err := a.c.Node(t.Context(), "a"); err != nil || n.Session == nil {
		t.Errorf("the session was closed before the write was done: %+v %v", n, err)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Errorf("it was done in time: %v", err)
	}
	<-closed
	if n, err := a.c.Node(t.Context(), "a"); err != nil || n.Session != nil || n.Expired {
		t.Errorf("%+v %v", n, err)
	}
	a.start() // the data dir was given back
}

// The flip is committed, and the target dies before it has put the slice in force.
func TestTargetDiesBeforePromotion(t *testing.T) {
	s := startServer(t)
	a, b := s.node("a"), s.node("b")
	s.declare(a.c, "x:", api.Declare{Writer: "a"}, a, b)
	if err := a.put("x:1", "a's"); err != nil {
		t.Fatal(err)
	}
	b.store.fails(failing("promote"))
	if m := s.move(a.c, api.StartMove{Prefix: "x:", From: "a", To: "b"}); m.Phase != "done" {
		t.Fatalf("%+v", m)
	}
	s.eventually("b has tried", func() error {
		if b.store.called("promote") == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	wants(t, b.put("x:2", "too early"), ErrQuiesced)
	b.die()
	b.store.mu.Lock()
	staged := b.store.staged
	b.store.staged = nil
	b.store.mu.Unlock()
	if _, err := StartSession(b.c, b.cfg); err == nil || !strings.Contains(err.Error(), "was sealed here, and the store does not have it any more") {
		t.Fatalf("the only copy is gone: %v", err)
	}
	b.store.mu.Lock()
	b.store.staged = staged
	b.store.mu.Unlock()
	b.store.fails(nil)
	b.start()
	s.eventually("b serves", func() error { return b.put("x:2", "b's") })
	b.holds("x:1", "a's")
}

// What a store refuses ends the move, with its words, and the source goes on.
func TestStoreErrorsAbortTheMove(t *testing.T) {
	s := startServer(t)
	a, b := s.node("a"), s.node("b")
	s.declare(a.c, "x:", api.Declare{Writer: "a"}, a, b)
	if err := a.put("x:1", "v"); err != nil {
		t.Fatal(err)
	}
	for hook, n := range map[string]*testNode{"ship": a, "stage": b, "verify": b} {
		n.store.fails(failing(hook))
		m := s.move(a.c, api.StartMove{Prefix: "x:", From: "a", To: "b"})
		if m.Phase != "aborted" || !strings.Contains(m.Detail, "no "+hook+" today") {
			t.Errorf("%s: %+v", hook, m)
		}
		n.store.fails(nil)
		s.eventually("a goes on", func() error { return a.put("x:1", hook) })
	}
	b.stop()
	b.cfg.Store = nil
	b.start()
	if m := s.move(a.c, api.StartMove{Prefix: "x:", From: "a", To: "b"}); m.Phase != "aborted" || !strings.Contains(m.Detail, "without a store") {
		t.Errorf("%+v", m)
	}
}

// failing has one method of a store fail.
func failing(hook string) func(context.Context, string, string) error {
	return func(_ context.Context, op, _ string) error {
		if op == hook {
			return errors.New("no " + hook + " today")
		}
		return nil
	}
}

func TestDataDir(t *testing.T) {
	c := New([]string{"127.0.0.1:1"})
	defer c.Close()
	dir := filepath.Join(t.TempDir(), "made")
	start := func(node string) error {
		s, err := StartSession(c, SessionConfig{Node: node, DataDir: dir, Store: NoData{}})
		if err != nil {
			return err
		}
		over, cancel := context.WithCancel(t.Context())
		cancel()
		_ = s.Close(over) // no registry answers here
		return nil
	}
	refuses := func(node, words string) {
		t.Helper()
		if err := start(node); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v, want %q", err, words)
		}
	}
	if err := start("a"); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", info, err)
	}
	refuses("b", `belongs to node "a", not to "b"`)
	refuses("no good", "no good")
	path := filepath.Join(dir, nodeFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	identity := strings.Index(string(good), `"identity":"`) + len(`"identity":"`)
	flipped := append([]byte{}, good...)
	flipped[identity] ^= 1
	for words, data := range map[string][]byte{
		"is damaged: its checksum":   flipped,
		"is damaged":                 good[:len(good)/2],
		"is of version 7, and this ": []byte(strings.Replace(string(good), `"version":1`, `"version":7`, 1)),
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		refuses("a", words)
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := start("a"); err != nil {
		t.Error(err)
	}
}
