package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// served runs Serve on a free port and returns its URL and what stops it.
func served(t *testing.T, h http.Handler) (url string, stop func() error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, ln, h, nil, nil) }()
	stop = func() error {
		cancel()
		return <-done
	}
	return "http://" + ln.Addr().String(), stop
}

func TestServeEndsStreamsAndWaits(t *testing.T) {
	b := newBench(t)
	b.moving()
	url, stop := served(t, b.h)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()

	res, err := client.Get(url + "/v1/watch")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.Header.Get("Content-Type") != "application/x-ndjson" || res.Header.Get(api.HeaderIndex) == "" {
		t.Errorf("%v", res.Header)
	}
	lines := bufio.NewScanner(res.Body)
	if !lines.Scan() || !strings.Contains(lines.Text(), `"type":"snapshot"`) {
		t.Fatalf("%q, %v", lines.Text(), lines.Err())
	}
	reads := len(b.reg.Asks)
	waited := make(chan string, 1)
	go func() {
		res, err := client.Get(url + "/v1/moves/m1?wait=60&min_index=1")
		if err != nil {
			waited <- err.Error()
			return
		}
		defer res.Body.Close()
		var m api.Move
		if err := json.NewDecoder(res.Body).Decode(&m); err != nil {
			waited <- err.Error()
			return
		}
		waited <- m.Phase
	}()
	for {
		b.reg.Mu.Lock()
		arrived := len(b.reg.Asks) > reads
		b.reg.Mu.Unlock()
		if arrived {
			break
		}
		if !lines.Scan() { // heartbeats pace the loop
			t.Fatal(lines.Err())
		}
	}
	start := time.Now()
	if err := stop(); err != nil {
		t.Errorf("stopped with %v", err)
	}
	if took := time.Since(start); took > shutdownTimeout {
		t.Errorf("shutting down took %v", took)
	}
	for lines.Scan() { // what was under way
	}
	if lines.Err() != nil {
		t.Errorf("the stream was cut: %v", lines.Err())
	}
	if phase := <-waited; phase != "quiescing" {
		t.Errorf("the wait ended with %q", phase)
	}
	if resp, err := client.Get(url + "/healthz"); err == nil {
		_ = resp.Body.Close()
		t.Error("it still answers")
	}
}

// timed notes the deadlines for reading that a handler sets.
type timed struct {
	*httptest.ResponseRecorder
	deadlines []time.Time
}

func (w *timed) SetReadDeadline(d time.Time) error {
	w.deadlines = append(w.deadlines, d)
	return nil
}

// The deadline for the body must not end a request that waits for its commit.
func TestBodyDeadlineIsTakenBack(t *testing.T) {
	b := newBench(t)
	w := &timed{ResponseRecorder: httptest.NewRecorder()}
	b.h.ServeHTTP(w, httptest.NewRequest("PUT", "/v1/nodes/a", strings.NewReader(`{"addr":"h:1"}`)))
	if n := len(w.deadlines); w.Code != 200 || n < 2 || w.deadlines[0].IsZero() || !w.deadlines[n-1].IsZero() {
		t.Errorf("%d, deadlines %v", w.Code, w.deadlines)
	}
}

func TestServeMutation(t *testing.T) {
	b := newBench(t)
	url, stop := served(t, b.h)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), "PUT", url+"/v1/nodes/a", strings.NewReader(`{"addr":"h:1"}`))
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 || b.reg.Last().Actor != "anonymous@127.0.0.1" {
		t.Errorf("%d, actor %q", res.StatusCode, b.reg.Last().Actor)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestServeEndsWithItsListener(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if err := Serve(t.Context(), ln, http.NotFoundHandler(), nil, nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
}

// The connections that make room are those with the least to lose, the oldest first.
func TestDoorMakesRoom(t *testing.T) {
	d := newDoor(nil, 4, false)
	conns := map[string]*doorConn{}
	enter := func(name, evicts string) {
		t.Helper()
		c := &doorConn{Conn: discardConn{}, door: d}
		evicted, ok := d.enter(c)
		if ok != (evicts != "refused") || ok && evicted != conns[evicts] {
			t.Fatalf("%s: evicts %p, %v; want %s", name, evicted, ok, evicts)
		}
		conns[name] = c
	}
	for _, name := range []string{"busy", "vouched", "spare", "silent"} {
		enter(name, "")
		if name != "silent" {
			d.note(conns[name], http.StateActive)
		}
	}
	asked := func(name string) *reply {
		req := httptest.NewRequest("GET", "/", nil)
		return &reply{request: req.WithContext(withConn(req.Context(), conns[name]))}
	}
	asked("vouched").vouch()
	asked("vouched").spare() // who is known does not lose that by one refusal
	d.note(conns["vouched"], http.StateIdle)
	d.note(conns["spare"], http.StateIdle)
	enter("fifth", "silent")
	enter("sixth", "fifth")
	d.note(conns["sixth"], http.StateActive)
	enter("seventh", "spare")
	d.note(conns["seventh"], http.StateActive)
	enter("eighth", "vouched")
	d.note(conns["eighth"], http.StateActive)
	enter("ninth", "refused")
	asked("seventh").spare() // refused, and still answered
	enter("tenth", "seventh")
	if !asked("seventh").evicted() || asked("busy").evicted() {
		t.Error("a connection does not know whether it has made room")
	}
	_ = conns["busy"].Close()
	_ = conns["busy"].Close() // gives one place back, not two
	if d.open != 3 {
		t.Errorf("%d are open", d.open)
	}
	d.note(conns["busy"], http.StateIdle) // late
	if d.lists[spare].Len() != 0 {
		t.Error("a closed connection is in the books again")
	}
}

// discardConn is a connection that can be closed.
type discardConn struct{ net.Conn }

func (discardConn) Close() error { return nil }

func TestFullDoorSaysSo(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := newDoor(ln, 1, false)
	accepted := make(chan net.Conn, 1)
	ended := make(chan error, 1)
	go func() {
		for {
			c, err := d.Accept()
			if err != nil {
				ended <- err
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := dial()
	inside := <-accepted
	d.note(inside, http.StateActive)
	second := dial()
	res, err := http.ReadResponse(bufio.NewReader(second), nil)
	if err != nil {
		t.Fatal(err)
	}
	var p problem
	if err := json.NewDecoder(res.Body).Decode(&p); err != nil || p.Code != api.Limit || res.StatusCode != 429 || p.Outcome != api.NotApplied {
		t.Errorf("%v %+v", err, p)
	}
	contains(t, p.Detail, "1 connections")
	res.Body.Close()
	second.Close()
	inside.Close()
	third := dial()
	(<-accepted).Close()
	first.Close()
	third.Close()
	ln.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}
