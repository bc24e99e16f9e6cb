package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/freeport"
	"github.com/scope-registry/scope-registry/scope"
)

// serveSlices serves take at SlicePath, and returns its address.
func serveSlices(t testing.TB, take func(context.Context, *Batch) error) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(SlicePath, sliceHandler(take, anybody))
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// TestHTTPSend: a batch arrives as it was sent, and the answer comes back with its
// code, and who it names.
func TestHTTPSend(t *testing.T) {
	var got *Batch
	var answer error
	addr := serveSlices(t, func(_ context.Context, b *Batch) error { got = b; return answer })
	send, b := HTTPSend(nil), lastOf(batchOf("s1", 3, "app:a", "app:b"), "app:a")
	for range 2 {
		if err := send(t.Context(), Peer{"n2", addr}, b); err != nil || !sameBatch(b, got) {
			t.Fatalf("%+v arrived as %+v (%v)", b, got, err)
		}
	}
	for _, answer = range []error{&api.Error{Code: api.Stale, Detail: "begin <anew>", Move: "m1", RetryMS: 7}, &api.Error{Code: api.Internal, Detail: "d"},
		&api.Error{Code: "NEWER", Detail: "d"}} {
		var e, want *api.Error
		if err := send(t.Context(), Peer{"n2", addr}, b); !errors.As(err, &e) || !errors.As(answer, &want) || e.Code != want.Code || e.Detail != want.Detail || e.RetryMS != want.RetryMS {
			t.Errorf("%v came back as %v", answer, err)
		}
	}
	answer = errors.New("plain")
	if err := send(t.Context(), Peer{"n2", addr}, b); api.CodeOf(err) != api.Internal || !strings.Contains(err.Error(), "plain") {
		t.Errorf("an error of no code came back as %v", err)
	}
	b.Records[0].Key = make([]byte, scope.MaxKeyLen+1)
	if err := send(t.Context(), Peer{"n2", "127.0.0.1:1"}, b); api.CodeOf(err) != api.TooLarge {
		t.Errorf("a batch beyond the bounds: %v", err)
	}
}

// TestHTTPSendFails: what never left is told from what may have arrived.
func TestHTTPSendFails(t *testing.T) {
	addrs, err := freeport.Addrs(1)
	if err != nil {
		t.Fatal(err)
	}
	nobody := addrs[0]
	page := func(status int, body string) string {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}))
		t.Cleanup(srv.Close)
		return srv.Listener.Addr().String()
	}
	hangUp := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer hangUp.Close()
	silent := serveSlices(t, func(ctx context.Context, _ *Batch) error { <-ctx.Done(); return ctx.Err() })
	for name, c := range map[string]struct {
		addr string
		code api.Code
		says string
	}{
		"nobody there": {nobody, api.Unavailable, nobody},
		"no address":   {"", api.OutcomeUnknown, "n2"},
		"bad address":  {"a b:%zz", api.Invalid, "a b:%zz"},
		"hangs up":     {hangUp.Listener.Addr().String(), api.OutcomeUnknown, "n2"},
		"silent":       {silent, api.OutcomeUnknown, "n2"},
		"no handler":   {page(404, "404 page not found"), api.Unavailable, SlicePath},
		"other json":   {page(500, `{"error":"?"}`), api.Unavailable, "500"},
		"redirect":     {page(307, ""), api.Invalid, "307"},
		"a website":    {page(200, "<html>"), api.Invalid, "200"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		err := HTTPSend(nil)(ctx, Peer{"n2", c.addr}, batchOf("s1", 0, "app:a"))
		cancel()
		if api.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
}

// TestSliceHandlerRefuses what is no batch, before it is read.
func TestSliceHandlerRefuses(t *testing.T) {
	taken := 0
	h := sliceHandler(func(context.Context, *Batch) error { taken++; return nil }, anybody)
	good := encode(t, batchOf("s1", 0, "app:a"))
	for name, c := range map[string]struct {
		method, kind string
		body         io.Reader
		length       int64
		code         api.Code
	}{
		"get":          {http.MethodGet, sliceType, bytes.NewReader(good), int64(len(good)), api.Invalid},
		"other type":   {http.MethodPost, "application/json", bytes.NewReader(good), int64(len(good)), api.Invalid},
		"no length":    {http.MethodPost, sliceType, bytes.NewReader(good), -1, api.Invalid},
		"too long":     {http.MethodPost, sliceType, &endless{}, MaxBatchBytes + 1, api.TooLarge},
		"empty":        {http.MethodPost, sliceType, bytes.NewReader(nil), 0, api.Corrupt},
		"nonsense":     {http.MethodPost, sliceType, &endless{}, 100, api.Invalid},
		"and then":     {http.MethodPost, sliceType, bytes.NewReader(append(bytes.Clone(good), 'x')), int64(len(good)) + 1, api.Corrupt},
		"cut off":      {http.MethodPost, sliceType, bytes.NewReader(good[:len(good)-1]), int64(len(good)), api.Corrupt},
		"broken":       {http.MethodPost, sliceType, io.MultiReader(bytes.NewReader(good[:9]), brokenReader{}), int64(len(good)), api.Corrupt},
		"well-formed!": {http.MethodPost, sliceType, bytes.NewReader(good), int64(len(good)), ""},
	} {
		r := httptest.NewRequest(c.method, SlicePath, c.body)
		r.Header.Set("Content-Type", c.kind)
		r.ContentLength = c.length
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if c.code == "" {
			if w.Code != http.StatusNoContent || taken != 1 {
				t.Errorf("%s: status %d, taken %d times", name, w.Code, taken)
			}
			continue
		}
		if w.Code != c.code.HTTPStatus() || !strings.Contains(w.Body.String(), `"`+string(c.code)+`"`) || w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: status %d, %s", name, w.Code, w.Body)
		}
	}
	if taken != 1 {
		t.Errorf("%d batches were taken, want 1", taken)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

// TestSliceHandlerBoundsMemory: bodies beyond what is held at one time are sent
// back, and there is room again when the others are done.
func TestSliceHandlerBoundsMemory(t *testing.T) {
	room := bodies{most: 10}
	fits := func(n int64) bool { return room.take(n) == nil }
	if !fits(9) || fits(2) || !fits(1) || fits(1) {
		t.Error("the bound is not kept")
	}
	room.give(1)
	if !fits(1) {
		t.Error("what was given back is not there")
	}
}

// TestLongBodies: of a long body no more is read than its beginning before it is known that its move may come; then there is
// room for it, of its own, or it is sent back.
func TestLongBodies(t *testing.T) {
	may := errors.New("not here")
	e := &sliceEnd{take: func(context.Context, *Batch) error { return nil }, usual: bodies{most: usualBodies}, long: bodies{most: longBodies},
		mayCome: func(_ *tls.ConnectionState, move string, long bool) error {
			if move != "m1" || !long {
				t.Errorf("move %q, long %t", move, long)
			}
			return may
		}}
	b := batchOf("s1", 0)
	b.Records = []Record{{Key: []byte("app:a"), Value: make([]byte, usualBody)}}
	body := encode(t, b)
	post := func() (read int, err error) {
		r := httptest.NewRequest(http.MethodPost, SlicePath, nil)
		come := &endless{head: body}
		r.Body, r.ContentLength = io.NopCloser(io.LimitReader(come, int64(len(body)))), int64(len(body))
		r.Header.Set("Content-Type", sliceType)
		err = e.takeRequest(httptest.NewRecorder(), r)
		if e.usual.used+e.long.used > 0 {
			t.Errorf("%d and %d bytes are held after it", e.usual.used, e.long.used)
		}
		return come.n, err
	}
	if read, err := post(); !strings.Contains(err.Error(), "not here") || read > headLen+readStep {
		t.Errorf("%d bytes were read of what may not come: %v", read, err)
	}
	may = nil
	if read, err := post(); err != nil || read != len(body) {
		t.Errorf("%d of %d bytes were read: %v", read, len(body), err)
	}
	e.long.most = int64(len(body)) - 1 // others are held
	if read, err := post(); api.CodeOf(err) != api.Unavailable || read > headLen+readStep {
		t.Errorf("%d bytes were read without room: %v", read, err)
	}
	e.usual.most = readStep - 1
	if read, err := post(); api.CodeOf(err) != api.Unavailable || read > 0 {
		t.Errorf("%d bytes were read without room for any: %v", read, err)
	}
}

// TestLongBodyEndsWithItsMove: of a move that ends while its long batch comes no more than a step is read.
func TestLongBodyEndsWithItsMove(t *testing.T) {
	asked := 0
	take := func(context.Context, *Batch) error { return nil }
	e := &sliceEnd{take: take, usual: bodies{most: usualBodies}, long: bodies{most: longBodies}, mayCome: func(_ *tls.ConnectionState, move string, long bool) error {
		if asked++; asked < 3 {
			return nil
		}
		return refusal(api.NotFound, move, "it is over")
	}}
	b := batchOf("s1", 0)
	b.Records = []Record{{Key: []byte("app:a"), Value: make([]byte, 4*bodyStep)}}
	come := &endless{head: encode(t, b)}
	r := httptest.NewRequest(http.MethodPost, SlicePath, come)
	r.ContentLength = int64(len(come.head))
	r.Header.Set("Content-Type", sliceType)
	err := e.takeRequest(httptest.NewRecorder(), r)
	if wants(t, err, &Error{Code: api.NotFound, Move: "m1"}); come.n != 2*bodyStep || e.usual.used+e.long.used > 0 {
		t.Errorf("%d bytes were read, %d and %d are held", come.n, e.usual.used, e.long.used)
	}
}

// TestHeadsThatLie: a batch that says another length than its request is sent back before more than that is read, and nothing is
// allocated for it.
func TestHeadsThatLie(t *testing.T) {
	h := sliceHandler(func(context.Context, *Batch) error { return nil }, anybody)
	for _, length := range []int64{70_000, MaxBatchBytes - 1} {
		come := &endless{head: append([]byte(batchMagic), 0xff, 0xff, 0xff, 0xff)}
		binary.BigEndian.PutUint32(come.head[len(batchMagic):], uint32(MaxBatchBytes-headLen-sumLen))
		r := httptest.NewRequest(http.MethodPost, SlicePath, nil)
		r.Body, r.ContentLength = io.NopCloser(io.LimitReader(come, length)), length
		r.Header.Set("Content-Type", sliceType)
		w := httptest.NewRecorder()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		h.ServeHTTP(w, r)
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; w.Code != api.Corrupt.HTTPStatus() || come.n > headLen || grown > 1<<20 {
			t.Errorf("%d bytes that say %d: status %d, %d were read, and %d allocated", length, MaxBatchBytes, w.Code, come.n, grown)
		}
	}
}

// TestOutgoingEnds: what a transport reads late is not the sender's memory any more.
func TestOutgoingEnds(t *testing.T) {
	o := &outgoing{pieces: [][]byte{[]byte("ab"), []byte("cd")}}
	body, _ := o.body()
	if _, err := io.ReadFull(body, make([]byte, 3)); err != nil || o.size() != 4 {
		t.Fatal(err, o.size())
	}
	o.end()
	if n, err := body.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestHTTPMove ships a slice over real connections.
func TestHTTPMove(t *testing.T) {
	from, to := newMemStore(manyRecords(2500, 100)...), newMemStore()
	target := newSliceTarget(t, to)
	defer target.stop()
	target.sees("quiescing")
	addr := serveSlices(t, target.take)
	source := newSliceSource(from, HTTPSend(nil))
	source.addr = func(scope.NodeID) string { return addr }
	source.shipSlice(t.Context())
	shipped := only[agent.Shipped](t, source.events())
	target.recv.works.Wait() // the verification too
	if got := only[agent.Received](t, target.events()); got.Manifest != shipped.Manifest || !sameRecords(to.stagedOf("m1"), from.slice()) {
		t.Errorf("shipped %+v, received %+v", shipped.Manifest, got.Manifest)
	}
}

func TestNoData(t *testing.T) {
	target := newSliceTarget(t, newMemStore())
	defer target.stop()
	target.sees("quiescing")
	source := newSliceSource(NoData{}, (&badWire{target: target}).send)
	source.shipSlice(t.Context())
	if got := only[agent.Shipped](t, source.events()); Manifest(got.Manifest) != newMemStore().manifest("", "") {
		t.Errorf("shipped %+v", got.Manifest)
	}
	if err := (NoData{}).Stage(t.Context(), Slice(aMove), batchOf("s", 0, "app:a").Records); err == nil || !strings.Contains(err.Error(), "NoData") {
		t.Errorf("records came to a node without data: %v", err)
	}
}

// benchmarkShip moves a slice from memory to memory through send, to the end of
// the source's part.
func benchmarkShip(b *testing.B, records, valueLen int, send func(take func(context.Context, *Batch) error) (Send, string)) {
	from := newMemStore(manyRecords(records, valueLen)...)
	total := from.manifest("app:", "")
	b.SetBytes(int64(total.Bytes))
	for b.Loop() {
		b.StopTimer()
		target := newSliceTarget(nil, newMemStore())
		target.sees("quiescing")
		carry, addr := send(target.take)
		source := newSliceSource(from, carry)
		source.addr = func(scope.NodeID) string { return addr }
		b.StartTimer()
		source.shipSlice(b.Context())
		b.StopTimer()
		if len(eventsOf[agent.Shipped](source.events())) != 1 {
			b.Fatalf("told %+v", source.events())
		}
		target.stop()
		b.StartTimer()
	}
	b.ReportMetric(float64(total.Keys)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkShip(b *testing.B) {
	direct := func(take func(context.Context, *Batch) error) (Send, string) {
		return func(ctx context.Context, _ Peer, batch *Batch) error { return take(ctx, batch) }, "n2:1"
	}
	over := HTTPSend(nil)
	viaHTTP := func(take func(context.Context, *Batch) error) (Send, string) { return over, serveSlices(b, take) }
	for _, c := range []struct {
		name           string
		records, bytes int
	}{{"empty", 0, 0}, {"50000x100B", 50_000, 100}, {"100x1MiB", 100, 1 << 20}} {
		b.Run(c.name+"/direct", func(b *testing.B) { benchmarkShip(b, c.records, c.bytes, direct) })
		b.Run(c.name+"/http", func(b *testing.B) { benchmarkShip(b, c.records, c.bytes, viaHTTP) })
	}
}

// pipes is a listener in memory.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// TestSliceHandlerSlowSender: one that sends its body too slowly is sent away, however much is to come, and one that sends a
// long one for a long time is not, nor a store that takes its time.
func TestSliceHandlerSlowSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := pipes{make(chan net.Conn), make(chan struct{})}
		var left error
		srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: sliceHandler(func(ctx context.Context, _ *Batch) error {
			sleep(ctx, 10*bodyTime)
			left = ctx.Err()
			return nil
		}, anybody)}
		var serving sync.WaitGroup
		serving.Go(func() { _ = srv.Serve(l) })
		good := encode(t, batchOf("s1", 0, "app:a"))
		post := func(body []byte, piece int, pause time.Duration) (status int, took time.Duration) {
			ours, theirs := net.Pipe()
			defer ours.Close()
			l.conns <- theirs
			began := time.Now()
			var sending sync.WaitGroup
			sending.Go(func() {
				fmt.Fprintf(ours, "POST / HTTP/1.1\r\nHost: n2\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", sliceType, len(body))
				for b := range slices.Chunk(body, piece) {
					sleep(t.Context(), pause)
					if _, err := ours.Write(b); err != nil {
						return
					}
				}
			})
			resp, err := http.ReadResponse(bufio.NewReader(ours), nil)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			ours.Close()
			sending.Wait()
			return resp.StatusCode, time.Since(began)
		}
		if status, took := post(good, 1, bodyTime/10); status != api.Corrupt.HTTPStatus() || took < bodyTime || took > bodyTime+time.Second {
			t.Errorf("a slow sender got status %d after %v", status, took)
		}
		if status, took := post(good, 1, 0); status != http.StatusNoContent || took < 10*bodyTime || left != nil {
			t.Errorf("with a slow store the status is %d after %v (%v)", status, took, left)
		}
		b := batchOf("s1", 0)
		b.Records = []Record{{Key: []byte("app:a"), Value: make([]byte, 4*bodyStep)}}
		long := encode(t, b)
		if status, took := post(long, bodyStep/10, bodyTime/5); status != api.Corrupt.HTTPStatus() || took < bodyTime || took > bodyTime+time.Second {
			t.Errorf("a slow sender of a long batch got status %d after %v", status, took)
		}
		if status, took := post(long, bodyStep, bodyTime*4/5); status != http.StatusNoContent || took < 14*bodyTime {
			t.Errorf("a sender that is fast enough got status %d after %v", status, took)
		}
		close(l.done)
		serving.Wait()
		srv.Close()
	})
}

func anybody(*tls.ConnectionState, string, bool) error { return nil }
