package httpapi

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// readers starts one watcher that reads each item as soon as it is there, and
// one that has read its snapshot and no more.
func (w *wire) readers(accept string) (quick <-chan api.WatchItem, stalled *bufio.Reader, end func()) {
	w.t.Helper()
	_, all, endQuick := w.get("/v1/watch", linesType)
	items := make(chan api.WatchItem)
	go func() {
		defer close(items)
		for in := json.NewDecoder(all); ; {
			var item api.WatchItem
			if in.Decode(&item) != nil {
				return
			}
			items <- item
		}
	}()
	_, slow, endSlow := w.get("/v1/watch", accept)
	stalled = bufio.NewReader(slow)
	for {
		line, err := stalled.ReadString('\n')
		if err != nil {
			w.t.Fatal(err)
		}
		if strings.Contains(line, `"type":"snapshot"`) {
			break
		}
	}
	return items, stalled, func() {
		endQuick()
		endSlow()
		for range items {
		}
	}
}

// A watcher that stops reading is cut off after writeTimeout, or up to writeSlack later. Until then it
// delays neither changes nor other watchers.
func TestStalledWatcherIsCutOff(t *testing.T) {
	for _, accept := range []string{linesType, eventsType} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.declared()
			w, stop := wired(t, b.h)
			quick, stalled, end := w.readers(accept)
			if item := <-quick; item.Type != "snapshot" {
				t.Fatalf("%+v", item)
			}
			start := time.Now()
			b.ok(200, nil, "PUT", "/v1/nodes/d", `{"addr":"h:1"}`)
			if item := <-quick; item.Type != "change" || time.Since(start) > 0 {
				t.Errorf("%+v after %v", item, time.Since(start))
			}
			watchers := &b.h.(*server).watchers
			beat := func() {
				if _, on := <-quick; !on {
					t.Fatalf("the watcher that reads was cut off after %v", time.Since(start))
				}
			}
			for time.Since(start) < writeTimeout-heartbeatEvery {
				beat()
			}
			if n := watchers.Load(); n != 2 {
				t.Errorf("%d watchers before the time is up", n)
			}
			for time.Since(start) <= writeTimeout+writeSlack {
				beat()
			}
			if n := watchers.Load(); n != 1 {
				t.Fatalf("%d watchers after %v", n, time.Since(start))
			}
			if _, err := io.ReadAll(stalled); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("the stream ended with %v", err)
			}
			end()
			stop()
		})
	}
}

// A watcher that reads on, but later than the history reaches, is told so.
func TestSlowWatcherIsTold(t *testing.T) {
	for _, accept := range []string{linesType, eventsType} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.declared()
			w, stop := wired(t, b.h)
			quick, stalled, end := w.readers(accept)
			<-quick
			start := time.Now()
			for range fsm.MaxHistory/2 + 2 {
				for _, addr := range []string{"h:1", "h:2"} {
					b.propose(&fsm.SetNode{Id: "d", Addr: addr})
					if item := <-quick; item.Index != b.reg.Index {
						t.Fatalf("%+v, want index %d", item, b.reg.Index)
					}
				}
			}
			if took := time.Since(start); took > 0 {
				t.Errorf("changes and the other watcher were held up for %v", took)
			}
			rest, err := io.ReadAll(stalled)
			if err != nil {
				t.Fatal(err)
			}
			told := strings.TrimSpace(string(rest))
			last := told[strings.LastIndexByte(told, '\n')+1:]
			contains(t, last, `"type":"error"`, `"code":"SLOW"`, `"floor":`)
			if n := strings.Count(told, `"type"`); n != 2 {
				t.Errorf("%d items after the pause, want the one that waited and the error", n)
			}
			if accept == eventsType {
				contains(t, told, "\nevent: error\nid:\ndata: ")
			}
			end()
			stop()
		})
	}
}

// propose applies a command.
func (b *bench) propose(c fsm.Command) {
	b.t.Helper()
	if _, err := b.reg.Commit(fsm.Envelope{Command: c}); err != nil {
		b.t.Fatal(err)
	}
}

// A client that asks and does not read holds a connection, and its reply, for no
// longer than writeTimeout and writeSlack.
func TestStalledReplyIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.many(1000)
		w, stop := wired(t, b.h)
		for _, target := range []string{"/v1/nodes", "/healthz", "/v1/nodes/none"} {
			conn := w.dial("GET " + target + " HTTP/1.1\r\nHost: pipe\r\n\r\n")
			<-time.After(writeTimeout + 2*writeSlack)
			if said, _ := rest(conn, time.Now()); said != "" {
				t.Errorf("%s: %d bytes could still be read", target, len(said))
			}
			_ = conn.Close()
		}
		stop()
	})
}

// deadlined is a writer that keeps the last deadline it was given.
type deadlined struct {
	http.ResponseWriter
	by   time.Time
	fail error
}

func (d *deadlined) SetWriteDeadline(by time.Time) error {
	if d.fail == nil {
		d.by = by
	}
	return d.fail
}

// Each write has writeTimeout, and at most writeSlack more, however long ago the one before was. A deadline that could not be set is
// not taken for one that is.
func TestEachWriteHasItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &deadlined{fail: io.ErrClosedPipe}
		r := &reply{ResponseWriter: w}
		if err := r.bounded(); !errors.Is(err, w.fail) {
			t.Errorf("%v, want %v", err, w.fail)
		}
		w.fail = nil
		for _, pause := range []time.Duration{0, 1, writeSlack / 2, writeSlack / 2, 1, writeSlack, writeSlack + 1, writeTimeout, time.Hour} {
			time.Sleep(pause)
			if err := r.bounded(); err != nil {
				t.Fatal(err)
			}
			if left := time.Until(w.by); left < writeTimeout || left > writeTimeout+writeSlack {
				t.Errorf("after a pause of %v a write has %v", pause, left)
			}
		}
	})
}

// The time for one reply is not that for the next one on the same connection,
// nor for the word that the body may come.
func TestEachReplyHasItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stop := wired(t, newBench(t).h)
		conn := w.dial("GET /healthz HTTP/1.1\r\nHost: pipe\r\n\r\n")
		in := bufio.NewReader(conn)
		for _, want := range []int{200, 100, 200} {
			res, err := http.ReadResponse(in, nil)
			if err != nil || res.StatusCode != want {
				t.Fatalf("%v, %v, want %d", res, err, want)
			}
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			<-time.After(writeTimeout + 2*writeSlack)
			switch {
			case want == 100:
				_, err = io.WriteString(conn, `{"addr":"h:1"}`)
			case res.Request == nil && res.ContentLength == 2: // that of healthz
				_, err = io.WriteString(conn, "PUT /v1/nodes/a HTTP/1.1\r\nHost: pipe\r\nExpect: 100-continue\r\nContent-Length: 14\r\n\r\n")
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		_ = conn.Close()
		stop()
	})
}
