package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// town is some nodes that answer in turn, the last answer again and again.
type town struct {
	answers map[string][]error
	asked   []string
	pauses  []time.Duration // before each attempt
	last    time.Time
}

func (c *town) do(_ context.Context, addr string) error {
	c.asked = append(c.asked, addr)
	c.pauses = append(c.pauses, time.Since(c.last))
	c.last = time.Now()
	a, ok := c.answers[addr]
	if !ok {
		return &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	}
	if len(a) > 1 {
		c.answers[addr] = a[1:]
	}
	return a[0]
}

func to(addr string) error    { return &api.Error{Code: api.Misdirected, Addr: addr, Detail: "d"} }
func of(c api.Code) error     { return &api.Error{Code: c, Detail: "d"} }
func retryIn(ms int64) error  { return &api.Error{Code: api.Quiesced, RetryMS: ms, Detail: "d"} }
func list(e ...error) []error { return e }

// fixed is a route that does not change.
func fixed(addr string) func() string { return func() string { return addr } }

func TestFollow(t *testing.T) {
	plain := errors.New("disk full")
	unknown := fmt.Errorf("%w: %w", ErrMisdirected, ErrOutcomeUnknown)
	for _, c := range []struct {
		name    string
		answers map[string][]error
		asked   string
		err     error // nil: it succeeds
		said    string
	}{
		{"asks the owner", map[string][]error{"a": list(nil)}, "a", nil, ""},
		{"goes where it is sent", map[string][]error{"a": list(to("b")), "b": list(to("c")), "c": list(nil)}, "a b c", nil, ""},
		{"asks again after a pause", map[string][]error{"a": list(of(api.Quiesced), of(api.LeaseLost), of(api.Unavailable), nil)}, "a a a a", nil, ""},
		{"asks the route again, not who was named last", map[string][]error{"a": list(to("b"), nil), "b": list(of(api.Quiesced))}, "a b a", nil, ""},
		{"comes back from a node that is off", map[string][]error{"a": list(to("gone"), to("gone"), nil)}, "a gone a gone a", nil, ""},
		{"waits where no owner is named", map[string][]error{"a": list(to(""), nil)}, "a a", nil, ""},
		{"never repeats what may be done", map[string][]error{"a": list(ErrOutcomeUnknown, nil)}, "a", ErrOutcomeUnknown, ""},
		{"whatever else the error is", map[string][]error{"a": list(unknown, nil)}, "a", ErrOutcomeUnknown, ""},
		{"nor what nobody knows", map[string][]error{"a": list(of(api.Internal), nil)}, "a", of(api.Internal), ""},
		{"nor the store's own errors", map[string][]error{"a": list(plain, nil)}, "a", plain, ""},
		{"nor a connection that broke", map[string][]error{"a": list(&net.OpError{Op: "read", Err: io.EOF}, nil)}, "a", io.EOF, ""},
		{"nor a mistake", map[string][]error{"a": list(ErrCrossScope, nil)}, "a", ErrCrossScope, ""},
		{"says who was asked", map[string][]error{"a": list(to("b")), "b": list(of(api.LeaseLost), plain)}, "a b a b", plain, "4 attempts at a, b"},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := &town{answers: c.answers, last: time.Now()}
			err := Follow(t.Context(), fixed("a"), n.do)
			if (c.err == nil) != (err == nil) || !errors.Is(err, c.err) || err != nil && !strings.Contains(err.Error(), c.said) {
				t.Errorf("%s: %v, want %v", c.name, err, c.err)
			}
			if got := strings.Join(n.asked, " "); got != c.asked {
				t.Errorf("%s: asked %s, want %s", c.name, got, c.asked)
			}
			if c.said == "" && strings.Contains(fmt.Sprint(err), "attempt") {
				t.Errorf("%s: %v is not the error as it was", c.name, err)
			}
		})
	}
}

// Nodes that name each other, or one that names itself, are asked a bounded number
// of times, with pauses.
func TestFollowEnds(t *testing.T) {
	for name, answers := range map[string]map[string][]error{
		"each other": {"a": list(to("b")), "b": list(to("a"))},
		"itself":     {"a": list(to("a"))},
		"quiesced":   {"a": list(of(api.Quiesced))},
		"all off":    {},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := &town{answers: answers, last: time.Now()}
			start := time.Now()
			err := Follow(t.Context(), fixed("a"), n.do)
			took := time.Since(start)
			if err == nil || len(n.asked) != followTries || !strings.Contains(err.Error(), "64 attempts at a") || !strings.Contains(err.Error(), "the limit") {
				t.Errorf("%s: %v after %d attempts", name, err, len(n.asked))
			}
			if took < 5*time.Second || took > followTries*followPauseMax {
				t.Errorf("%s: took %v", name, took)
			}
			hops := 1
			for i, p := range n.pauses[1:] {
				if hops++; p > 0 {
					hops = 1
				}
				if p > followPauseMax || hops > len(answers)+1 {
					t.Errorf("%s: pause %v before attempt %d, %d without one", name, p, i+1, hops)
				}
			}
		})
	}
}

func TestFollowPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &town{last: time.Now(), answers: map[string][]error{"a": list(
			of(api.Quiesced), of(api.Quiesced), retryIn(300), retryIn(1<<62), retryIn(-5), nil)}}
		if err := Follow(t.Context(), fixed("a"), n.do); err != nil {
			t.Fatal(err)
		}
		ms := time.Millisecond
		for i, within := range [][2]time.Duration{{0, 0}, {followPause / 2, followPause}, {followPause, 2 * followPause},
			{300 * ms, 320 * ms}, {followHintMax, followHintMax + 40*ms}, {80 * ms, 160 * ms}} {
			if p := n.pauses[i]; p < within[0] || p > within[1] {
				t.Errorf("pause %v before attempt %d, want %v", p, i, within)
			}
		}
	})
}

func TestFollowEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &town{last: time.Now(), answers: map[string][]error{"a": list(of(api.Quiesced))}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		err := Follow(ctx, fixed("a"), n.do)
		if !errors.Is(err, ErrQuiesced) || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		asked := len(n.asked)
		if err := Follow(ctx, fixed("a"), n.do); !is(err, api.Timeout) || len(n.asked) != asked {
			t.Errorf("%v, asked %d", err, len(n.asked))
		}
		// What was cut off by the context is returned as it is: it may have been done.
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err = Follow(ctx, fixed("a"), func(ctx context.Context, _ string) error {
			<-ctx.Done()
			return ctx.Err()
		})
		if err != context.DeadlineExceeded {
			t.Errorf("%v", err)
		}
		if err := Follow(t.Context(), fixed(""), n.do); !is(err, api.NotFound) || len(n.asked) != asked {
			t.Errorf("%v", err)
		}
	})
}

// Whoever waits for the end of a move, or for a takeover, goes on as soon as the
// mirror knows of it.
func TestMirrorFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flip := make(chan struct{})
		m, err := virtual(t, []string{"x"}, func(ctx context.Context, _, _ string, w io.Writer) {
			_ = json.NewEncoder(w).Encode(whole(1, 5, nodeAt("a", "a:1"), nodeAt("b", "b:1"), moving("p:", "a", "b", 3)))
			index := uint64(5)
			for beating := true; beating; index++ { // heartbeats alone end no pause
				select {
				case <-flip:
					beating = false
				case <-time.After(100 * time.Millisecond):
					_ = json.NewEncoder(w).Encode(beat(1, index))
				}
			}
			_ = json.NewEncoder(w).Encode(changed(1, index, owned("p:", "b", 9)))
			<-ctx.Done()
		})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		n := &town{last: time.Now(), answers: map[string][]error{"b:1": list(retryIn(2000), retryIn(2000), nil)}}
		start := time.Now()
		time.AfterFunc(2500*time.Millisecond, func() { close(flip) })
		if err := m.Follow(t.Context(), []byte("p:1"), n.do); err != nil || fmt.Sprint(n.asked) != "[b:1 b:1 b:1]" {
			t.Errorf("%v, asked %v", err, n.asked)
		}
		if took := time.Since(start); took != 2500*time.Millisecond {
			t.Errorf("took %v", took)
		}
		if err := m.Follow(t.Context(), []byte("nobody's"), n.do); !is(err, api.NotFound) {
			t.Errorf("%v", err)
		}
	})
}
