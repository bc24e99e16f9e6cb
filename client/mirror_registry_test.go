package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/freeport"
	"github.com/scope-registry/scope-registry/internal/registry"
	"github.com/scope-registry/scope-registry/scope"
	"github.com/scope-registry/scope-registry/transport/httpapi"
)

// realRegistry is a server of its own, in this process.
func realRegistry(tb testing.TB) (*registry.Registry, *httptest.Server) {
	tb.Helper()
	addrs, err := freeport.Addrs(1)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	reg, err := registry.Open(ctx, registry.Config{ID: "s1", DataDir: tb.TempDir(), Peers: []registry.Peer{{ID: "s1", Addr: addrs[0]}}, Timing: "fast"})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := reg.Close(); err != nil {
			tb.Error(err)
		}
	})
	s := httptest.NewServer(httpapi.New(httpapi.Config{Registry: reg}))
	tb.Cleanup(s.Close)
	tb.Cleanup(s.CloseClientConnections) // first: a watch ends by itself only after its next heartbeat
	return reg, s
}

// A mirror of a real server shows what the server shows, also across connections
// that break, and routes as the server does.
func TestMirrorOfARegistry(t *testing.T) {
	_, s := realRegistry(t)
	c := New([]string{s.URL})
	defer c.Close()
	ctx := bounded(t)
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.SetNode(ctx, api.Node{ID: "a", Addr: "a:1"}))
	must(c.SetNode(ctx, api.Node{ID: "b", Addr: "b:1"}))
	m, err := c.NewMirror(ctx)
	must(nil, err)
	defer m.Close()
	for i := range 20 {
		must(c.Declare(ctx, scope.Prefix(fmt.Sprintf("p%d:", i)), api.Declare{Writer: []string{"a", "b"}[i%2]}, 0))
		switch i {
		case 5:
			s.CloseClientConnections()
		case 10:
			must(c.Retire(ctx, "p3:", Fenced{Node: "b"}, 0))
		case 15:
			must(c.StartMove(ctx, api.StartMove{Prefix: "p0:", From: "a", To: "b", Mode: "assisted"}))
		}
	}
	must(nil, m.WaitIndex(ctx, c.Index()))
	v := m.View()
	want, err := c.Scopes(ctx, ListOptions{Limit: 100})
	must(nil, err)
	var got []string
	for s := range v.Scopes("") {
		got = append(got, fmt.Sprint(s.Prefix.Text(), s.Owner, s.Epoch, s.Quiesced))
	}
	var declared []string
	for _, s := range want.Scopes {
		declared = append(declared, fmt.Sprint(s.Prefix, s.Owner, s.Epoch, s.Target))
	}
	if !slices.Equal(got, declared) || len(got) != 19 {
		t.Errorf("the mirror shows\n%v, the server\n%v", got, declared)
	}
	for _, key := range []string{"p0:1", "p1:1", "p2:1", "p3:1"} {
		r, err := c.Route(ctx, []byte(key), RouteOptions{As: "a"})
		must(nil, err)
		if got := m.Route([]byte(key), "a"); got.Verdict.String() != r.Verdict || got.Token.Epoch != r.Epoch {
			t.Errorf("%s: %+v, the server says %+v", key, got, r)
		}
	}
	if err := m.Err(); err != nil || m.Age() > 10*time.Second {
		t.Errorf("%v, %v", err, m.Age())
	}
}

// manyMirrors is how many there are in one process.
const manyMirrors = 1000

// How long a change takes to all mirrors of a process, on their own connections
// each, and what a mirror costs.
func BenchmarkMirrors(b *testing.B) {
	_, s := realRegistry(b)
	c := New([]string{s.URL})
	defer c.Close()
	if _, err := c.SetNode(b.Context(), api.Node{ID: "a", Addr: "a:1"}); err != nil {
		b.Fatal(err)
	}
	mirrors := make([]*Mirror, manyMirrors)
	for i := range mirrors {
		m, err := c.NewMirror(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(m.Close)
		mirrors[i] = m
	}
	var all []time.Duration
	took := make([]time.Duration, len(mirrors))
	n := 0
	for b.Loop() {
		b.StopTimer()
		var wg sync.WaitGroup
		p := scope.Prefix(fmt.Sprintf("p%d:", n))
		n++
		start := time.Now()
		for i, m := range mirrors {
			wg.Go(func() {
				for next := m.Changed(); ; next = m.Changed() {
					if _, ok := m.View().Scope(p); ok {
						took[i] = time.Since(start)
						return
					}
					<-next
				}
			})
		}
		b.StartTimer()
		start = time.Now()
		if _, err := c.Declare(b.Context(), p, api.Declare{Writer: "a"}, 0); err != nil {
			b.Fatal(err)
		}
		wg.Wait()
		all = append(all, took...)
	}
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
}

// What a heartbeat costs a mirror, from the line that came to the view.
func BenchmarkHeartbeat(b *testing.B) {
	f := fold{}
	if err := f.take(whole(1, 5)); err != nil {
		b.Fatal(err)
	}
	s := streamOf(b.N)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		item, err := s.next()
		if err == nil {
			err = f.take(item)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// streamOf is one that brings n heartbeats of the same index.
func streamOf(n int) *stream {
	line := `{"type":"heartbeat","index":5,"incarnation":1,"incarnation_tag":"t"}` + "\n"
	c := New([]string{"a"}, WithHTTPClient(&http.Client{Transport: network(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(strings.Repeat(line, n))), Request: r}, nil
	})}))
	s, err := c.openStream(context.Background(), 1, silence)
	if err != nil {
		panic(err)
	}
	return s
}
