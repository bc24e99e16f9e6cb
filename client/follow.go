package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

const (
	// followTries is how often the owner of a key is asked. With the longest pause between them this takes some 25 s:
	// the window of a move, 5 s, passes, and the takeover from a node that died, 10 s of lease and what the leader needs.
	followTries = 64
	// followPause is the first pause; it doubles up to followPauseMax. A move of little closes its scope for some
	// milliseconds only.
	followPause    = 10 * time.Millisecond
	followPauseMax = 500 * time.Millisecond
	// followHintMax bounds what a node may ask for as the time until the next try.
	followHintMax = 5 * time.Second
	// followNamed is how many of those that were asked the error names.
	followNamed = 6
)

// Follow calls do with the address of the owner of a key until it succeeds, or
// fails in a way that no other try may follow. Route says where to begin, and where
// to go on; "" is nowhere, which is NOT_FOUND.
//
// An attempt is followed by another one only if it surely had no effect, which the
// error of do must tell, itself or as one that it wraps: after MISDIRECTED the node
// that it names is asked at once; after QUIESCED, LEASE_LOST and UNAVAILABLE, and
// if no connection could be made, route is asked after a pause, which grows, and is
// not below RetryMS. Two nodes that name each other are asked after pauses, too. So
// do is to be one request, or several of which only the last has an effect, and
// makes *[Error]s of what the node answers: [ParseReply] and [ErrorFrom] do that.
// Any other error is returned at once, OUTCOME_UNKNOWN above all: as it is after
// the first attempt, else wrapped in one that says who was asked. So is the last
// one when ctx ends or too many attempts were made.
func Follow(ctx context.Context, route func() (addr string), do func(ctx context.Context, addr string) error) error {
	w := walk{route: route, wait: sleep, do: do}
	return w.run(ctx)
}

// Follow is like the function [Follow] for the owner of key, as the mirror has it.
// A pause ends early when the mirror learns that the key's route is another one.
func (m *Mirror) Follow(ctx context.Context, key []byte, do func(ctx context.Context, addr string) error) error {
	var was Route
	w := walk{do: do}
	w.route = func() string {
		was = m.Route(key, "")
		return was.Addr
	}
	w.wait = func(ctx context.Context, d time.Duration) bool {
		t := time.NewTimer(d)
		defer t.Stop()
		for {
			now := m.now.Load()
			if now.view.Route(key, "") != was {
				return true
			}
			select {
			case <-now.next:
			case <-t.C:
				return true
			case <-ctx.Done():
				return false
			}
		}
	}
	return w.run(ctx)
}

// walk is one search for an owner.
type walk struct {
	route func() (addr string)
	wait  func(ctx context.Context, d time.Duration) bool // false: ctx ended
	do    func(ctx context.Context, addr string) error
	tries int
	named []string // who was asked first, each once
	near  []string // who was asked since the last pause
}

func (w *walk) run(ctx context.Context) error {
	pause := followPause
	addr := w.route()
	for {
		if ctx.Err() != nil && w.tries == 0 {
			return &api.Error{Code: api.Timeout, Detail: fmt.Sprintf("nobody was asked: %v", context.Cause(ctx))}
		}
		if addr == "" {
			return w.gaveUp(&api.Error{Code: api.NotFound, Detail: "no owner of the key is known: declare a scope that holds it"}, nil)
		}
		err := w.ask(ctx, addr)
		if err == nil {
			return nil
		}
		e, again := harmless(err)
		switch {
		case !again:
			return w.gaveUp(err, nil)
		case ctx.Err() != nil:
			return w.gaveUp(err, context.Cause(ctx))
		case w.tries == followTries:
			return w.gaveUp(err, fmt.Errorf("%d tries are the limit", followTries))
		}
		if addr = w.next(e); addr != "" {
			continue
		}
		if !w.wait(ctx, pauseFor(e, pause)) {
			return w.gaveUp(err, context.Cause(ctx))
		}
		pause = min(2*pause, followPauseMax)
		w.near = w.near[:0]
		addr = w.route()
	}
}

func (w *walk) ask(ctx context.Context, addr string) error {
	w.tries++
	w.near = append(w.near, addr)
	if !slices.Contains(w.named, addr) && len(w.named) <= followNamed {
		w.named = append(w.named, addr)
	}
	return w.do(ctx, addr)
}

// next is who is to be asked at once: nobody who was since the last pause.
func (w *walk) next(e api.Error) string {
	if e.Code != api.Misdirected {
		return ""
	}
	if e.Addr != "" && !slices.Contains(w.near, e.Addr) {
		return e.Addr
	}
	if addr := w.route(); !slices.Contains(w.near, addr) {
		return addr
	}
	return ""
}

// gaveUp says who was asked, if it were several attempts, and what ended them if it
// was not the error itself.
func (w *walk) gaveUp(last, why error) error {
	if w.tries <= 1 && why == nil {
		return last
	}
	named, more := w.named, ""
	if len(named) > followNamed {
		named, more = named[:followNamed], " and others"
	}
	who := fmt.Sprintf("%d attempts at %s%s", w.tries, strings.Join(named, ", "), more)
	if why == nil {
		return fmt.Errorf("%w (after %s)", last, who)
	}
	return fmt.Errorf("%w (after %s, given up: %w)", last, who, why)
}

// harmless reports whether the attempt that got err surely had no effect and
// another one may do better, and what it was told.
func harmless(err error) (api.Error, bool) {
	if errors.Is(err, ErrOutcomeUnknown) {
		return api.Error{}, false // whatever else it wraps
	}
	var e *api.Error
	if errors.As(err, &e) {
		switch e.Code {
		case api.Misdirected, api.Quiesced, api.LeaseLost, api.Unavailable:
			return *e, true
		default:
			return api.Error{}, false
		}
	}
	return api.Error{Code: api.Unavailable}, unsent(err) != nil
}

// pauseFor is how long to wait: what the node asked for at least, and not as long
// as everybody else.
func pauseFor(e api.Error, pause time.Duration) time.Duration {
	hint := time.Duration(min(max(e.RetryMS, 0), followHintMax.Milliseconds())) * time.Millisecond
	own := pause/2 + rand.N(pause/2)
	return max(hint+own/4, own)
}
