package upstream

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lookEvery is how often a gate looks whether its store answers, and still has its lock.
	lookEvery = time.Second
	// The pauses between two tries of what must succeed.
	retryFirst = 20 * time.Millisecond
	retryLast  = time.Second
)

// Store is the server behind a gate, held by its lock. It is safe for use by many goroutines.
type Store struct {
	cfg      Config
	log      *slog.Logger
	instance string // of this process
	own      string // the lock's value while it is ours
	secure   *tls.Config
	dialer   net.Dialer
	serial   atomic.Uint64 // of connections
	retaken  atomic.Uint64

	lost    chan struct{} // closed when the lock is another's
	losing  sync.Once
	lostErr atomic.Pointer[HeldError]

	turn    chan *link // holds one: the link for the gate's own commands, nil if there is none
	started Server
	fresh   bool // nobody had the lock
	state   atomic.Pointer[State]
	stop    context.CancelFunc
	looking sync.WaitGroup
}

// State is how the store is.
type State struct {
	Answers bool      // when it was asked last
	Since   time.Time // when that began
	Trouble string    // why it does not answer
	Retaken uint64    // how often it came back without the lock, which is without its data
}

// Open takes the store for this process: it connects, takes the lock, and then kills every connection of an earlier gate and
// sees it gone, so that nothing an earlier gate had sent executes from then on. A store that does not answer yet is waited for
// until ctx ends. [Store.Close] ends it.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Store, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	secure, err := cfg.secure()
	if err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, log: log, instance: rand.Text(), secure: secure, lost: make(chan struct{}), turn: make(chan *link, 1)}
	s.own = holder{cfg.Node, cfg.Identity, s.instance}.String()
	var first *link
	if err := s.patiently(ctx, passes, func() (err error) {
		first, err = s.take(ctx)
		return err
	}); err != nil {
		return nil, err
	}
	s.turn <- first
	s.state.Store(&State{Answers: true, Since: time.Now()})
	var run context.Context
	run, s.stop = context.WithCancel(context.Background())
	s.looking.Go(func() { s.look(run) })
	return s, nil
}

// take does what Open does, once.
func (s *Store) take(ctx context.Context) (*link, error) {
	l, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	err = s.inspect(ctx, l)
	if err == nil {
		err = s.takeLock(ctx, l)
	}
	killed := 0
	if err == nil {
		killed, err = s.end(ctx, l, s.ofOthers)
	}
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	s.log.Info("the store is this gate's", "addr", s.cfg.Addr, "server", s.started.Name, "version", s.started.Version, "killed", killed)
	return l, nil
}

// patiently repeats what fails with an error that passes.
func (s *Store) patiently(ctx context.Context, passes func(error) bool, try func() error) error {
	said := ""
	for pause := retryFirst; ; pause = min(2*pause, retryLast) {
		err := try()
		if err == nil || !passes(err) {
			return err
		}
		if text := err.Error(); text != said && ctx.Err() == nil {
			s.log.Warn("the store does not answer, and is asked again", "addr", s.cfg.Addr, "error", text)
			said = text
		}
		if late := wait(ctx, pause); late != nil {
			return errors.Join(err, late)
		}
	}
}

// passes tells whether it may succeed when it is tried again: the store is not there yet, or not ready. Nobody may come
// to hear of a wrong password by waiting.
func passes(err error) bool {
	var no *RefusedError
	var network *net.OpError // net.Error would be any error of the system, a file that is not there among them
	switch {
	case errors.As(err, &no):
		return no.passing()
	case errors.As(err, &network), errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return true
	}
	return false
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// with runs f with the link for the gate's own commands, one at a time. A link that breaks is made anew by the next.
func (s *Store) with(ctx context.Context, f func(*link) error) error {
	var l *link
	select {
	case l = <-s.turn:
	case <-ctx.Done():
		return fmt.Errorf("the store's link is in use: %w", ctx.Err())
	}
	defer func() { s.turn <- l }()
	if l == nil {
		fresh, err := s.link(ctx)
		if err != nil {
			return err
		}
		l = fresh
	}
	err := f(l)
	if no := (*RefusedError)(nil); err != nil && !errors.As(err, &no) {
		_ = l.Close() // what comes next may be the reply to this
		l = nil
	}
	return err
}

// Ask asks the store on the gate's own connection, over which no client's commands go. What it asks must do no harm twice: it
// is asked again if the connection turns out to be broken. An error that the store answers is a *RefusedError.
func (s *Store) Ask(ctx context.Context, args ...string) (reply Reply, err error) {
	for range 2 {
		err = s.with(ctx, func(l *link) error {
			reply, err = l.ask(ctx, args...)
			return err
		})
		if no := (*RefusedError)(nil); err == nil || errors.As(err, &no) || ctx.Err() != nil || s.LostError() != nil {
			break
		}
	}
	return reply, err
}

// look keeps State, and finds out that the lock is lost though nobody dials.
func (s *Store) look(ctx context.Context) {
	for wait(ctx, lookEvery) == nil {
		err := s.with(ctx, func(l *link) error { return s.checkLock(ctx, l) })
		if ctx.Err() != nil {
			return
		}
		was, is := s.state.Load(), State{Answers: err == nil, Retaken: s.retaken.Load()}
		if err != nil {
			is.Trouble = err.Error()
		}
		if is.Since = was.Since; is.Answers != was.Answers {
			is.Since = time.Now()
			if is.Answers {
				s.log.Info("the store answers again", "addr", s.cfg.Addr)
			} else {
				s.log.Warn("the store does not answer", "addr", s.cfg.Addr, "error", err)
			}
		}
		s.state.Store(&is)
	}
}

// State is how the store was when it was looked at last, a second ago or so.
func (s *Store) State() State { return *s.state.Load() }

// Server is what the store said of itself at Open.
func (s *Store) Server() Server { return s.started }

func (s *Store) lose(why *HeldError) {
	s.losing.Do(func() {
		s.lostErr.Store(why)
		s.log.Error("another gate has taken the store; this one must not go on", "error", why)
		close(s.lost)
	})
}

// Lost is closed when another gate has taken the store. Nothing brings it back: the process has to end.
func (s *Store) Lost() <-chan struct{} { return s.lost }

// LostError is why the store is lost, nil while it is not.
func (s *Store) LostError() error {
	if why := s.lostErr.Load(); why != nil {
		return why
	}
	return nil
}

// Close closes the gate's own connection. The lock stays: the store holds the data of this node, and the next gate before it
// is that of the same node, which may take it.
func (s *Store) Close() error {
	s.stop()
	s.looking.Wait()
	l := <-s.turn
	s.turn <- nil
	if l == nil {
		return nil
	}
	return l.Close()
}
