package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
)

const (
	// holders are the sessions that are renewed.
	holders = 20
	// renewEvery is how often each of them is; the registry asks for one in two seconds.
	renewEvery = 100 * time.Millisecond
	// freshEvery is how many renewals a connection is kept for: both those that are kept and new ones have to get through.
	freshEvery = 5
	// callTime bounds a call. What takes longer is shut out.
	callTime = 5 * time.Second
)

// figures are what was measured.
type figures struct {
	moves, renewals []time.Duration
	failed          int
	last            error // of what failed
}

// String is the figures in a line.
func (f figures) String() string {
	return fmt.Sprintf("%d moves, median %v, p99 %v; %d renewals, median %v, p99 %v, slowest %v; %d failed", len(f.moves), quantile(f.moves, 0.5), quantile(f.moves, 0.99),
		len(f.renewals), quantile(f.renewals, 0.5), quantile(f.renewals, 0.99), quantile(f.renewals, 1), f.failed)
}

// quantile is the value below which the share q lies; 0 of nothing.
func quantile(all []time.Duration, q float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)].Round(time.Microsecond)
}

// shows is a transport that shows a token with every request.
type shows struct {
	token string
	*http.Transport
}

// RoundTrip sends a request.
func (s shows) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+s.token)
	return s.Transport.RoundTrip(r)
}

func showing(token string) *http.Client {
	return &http.Client{Transport: shows{token, &http.Transport{}}}
}

// load is the work that is measured: one scope that goes to and fro, and sessions that are renewed.
type load struct {
	mover    *client.Client
	renewers []*client.Client
	sessions []string
	epoch    int // turns of the scope, odd: it is with b
}

// newLoad bootstraps the cluster through the server at addr and opens the sessions.
func newLoad(ctx context.Context, addr string) (*load, error) {
	first, token, err := client.DrawToken(client.NewToken{ID: "flood", Role: "admin", First: true})
	if err != nil {
		return nil, err
	}
	l := &load{mover: admitted(addr, token)}
	unknown := client.New([]string{addr}, client.WithTimeout(callTime))
	defer unknown.Close()
	if _, err := unknown.CreateToken(ctx, first); err != nil {
		return nil, err
	}
	for _, node := range []string{"a", "b"} {
		if _, err := l.mover.SetNode(ctx, client.Node{ID: node, Addr: "127.0.0.1:1"}); err != nil {
			return nil, err
		}
	}
	if _, err := l.mover.Declare(ctx, "flood:", client.Declare{Writer: "a"}, 0); err != nil {
		return nil, err
	}
	status, err := l.mover.Cluster(ctx, false)
	if err != nil {
		return nil, err
	}
	for i := range holders {
		node := fmt.Sprintf("n%d", i)
		if _, err := l.mover.SetNode(ctx, client.Node{ID: node, Addr: "127.0.0.1:1"}); err != nil {
			return nil, err
		}
		cl := admitted(addr, token)
		o := client.OpenSession{Identity: rand.Text(), Session: rand.Text(), Token: rand.Text() + rand.Text(), Incarnation: status.Incarnation, Tag: status.Tag, View: l.mover.Index()}
		if _, err := cl.OpenSession(ctx, node, o); err != nil {
			return nil, err
		}
		l.renewers, l.sessions = append(l.renewers, cl), append(l.sessions, o.Session)
	}
	return l, nil
}

func (l *load) close() {
	l.mover.Close()
	for _, cl := range l.renewers {
		cl.Close()
	}
}

// measure moves and renews for a time and adds what it took.
func (l *load) measure(ctx context.Context, turn time.Duration, f *figures) error {
	turnCtx, cancel := context.WithTimeout(ctx, turn)
	defer cancel()
	var mu sync.Mutex // guards f
	add := func(to *[]time.Duration, took time.Duration, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			f.failed, f.last = f.failed+1, err
			return
		}
		*to = append(*to, took)
	}
	var running sync.WaitGroup
	for i := range l.renewers {
		running.Go(func() {
			t := time.NewTicker(renewEvery)
			defer t.Stop()
			for n := 1; ; n++ {
				select {
				case <-turnCtx.Done():
					return
				case <-t.C:
				}
				if n%freshEvery == 0 {
					l.renewers[i].Close()
				}
				start := time.Now()
				_, err := l.renewers[i].Renew(ctx, api.Renewal{Session: l.sessions[i], View: l.renewers[i].Index()})
				add(&f.renewals, time.Since(start), err)
			}
		})
	}
	for turnCtx.Err() == nil {
		start := time.Now()
		id, err := l.move(ctx)
		add(&f.moves, time.Since(start), err)
		if err == nil {
			_, err = l.mover.Cleaned(ctx, id, "there is none")
		}
		if err != nil {
			cancel()
			running.Wait()
			return fmt.Errorf("a move: %w", err)
		}
	}
	running.Wait()
	return ctx.Err()
}

// move takes the scope to the other node: four commands, but for the cleaning up.
func (l *load) move(ctx context.Context) (id string, err error) {
	from, to := "a", "b"
	if l.epoch%2 == 1 {
		from, to = to, from
	}
	m, err := l.mover.StartMove(ctx, client.StartMove{Prefix: "flood:", From: from, To: to, Mode: "assisted"})
	if err == nil {
		_, err = l.mover.Shipped(ctx, m.ID, nil)
	}
	if err == nil {
		_, err = l.mover.Ready(ctx, m.ID, nil)
	}
	if err == nil {
		l.epoch++
	}
	return m.ID, err
}
