package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/scope"
)

// gate is a Guard in a test.
type gate struct {
	refuse, lost error // before the write, and after it
	asked        chan []string
}

func (g *gate) Write(ctx context.Context, key []byte, fn func(context.Context, client.Token) error) error {
	return g.WriteKeys(ctx, [][]byte{key}, fn)
}

func (g *gate) WriteKeys(ctx context.Context, keys [][]byte, fn func(context.Context, client.Token) error) error {
	var names []string
	for _, k := range keys {
		names = append(names, string(k))
	}
	g.asked <- names
	if g.refuse != nil {
		return g.refuse
	}
	if err := fn(ctx, client.Token{Incarnation: 1, Epoch: 7}); err != nil {
		return err
	}
	return g.lost
}

// site is a store whose guard and routes are the test's.
type site struct {
	*Server
	*gate
	owner scope.NodeID
	view  bool
	http  *httptest.Server
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{gate: &gate{asked: make(chan []string, 100)}, owner: "n1", view: true}
	s.Server = &Server{Node: "n1", Disk: testDisk(t), Guard: s.gate, Slices: http.NotFoundHandler(),
		Owner:  func([]byte) (scope.NodeID, string, bool) { return s.owner, "127.0.0.1:1", s.view },
		Log:    slog.New(slog.DiscardHandler),
		Status: func() (any, bool) { return "session", s.view }}
	s.http = httptest.NewServer(s.Handler())
	t.Cleanup(s.http.Close)
	return s
}

func (s *site) ask(t *testing.T, method, path string, body io.Reader) (status int, header http.Header, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.http.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.http.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(data)
}

// expect asks and compares status and, of a problem, the code.
func (s *site) expect(t *testing.T, method, path, body string, status int, code string) string {
	t.Helper()
	got, header, data := s.ask(t, method, path, strings.NewReader(body))
	var p client.Error
	if status >= 400 {
		if err := json.Unmarshal([]byte(data), &p); err != nil || header.Get("Content-Type") != "application/problem+json" || p.Detail == "" {
			t.Errorf("%s %s: %q is no problem JSON", method, path, data)
		}
	}
	if got != status || string(p.Code) != code {
		t.Errorf("%s %s: got %d %s, want %d %s: %s", method, path, got, p.Code, status, code, data)
	}
	return data
}

func TestPutGetDelete(t *testing.T) {
	s := newSite(t)
	const key = "key=a:%5Cx00%5C%5C%C3%A9" // a:, a zero byte, a backslash, é
	began := time.Now().UnixNano()
	var out written
	data := s.expect(t, "PUT", "/v1/value?expires=4000000000000&"+key, "v\x00\xff", 200, "")
	if err := json.Unmarshal([]byte(data), &out); err != nil || out.Node != "n1" || out.Epoch != 7 || out.Incarnation != 1 ||
		out.Began < began || out.Ended < out.Began || out.Ended > time.Now().UnixNano() {
		t.Errorf("put answers %s", data)
	}
	if asked := <-s.asked; asked[0] != "a:\x00\\é" {
		t.Errorf("the guard was asked for %q", asked)
	}
	_, h, data := s.ask(t, "GET", "/v1/value?"+key, nil)
	if data != "v\x00\xff" || h.Get("X-Store-Epoch") != "7" || h.Get("X-Store-Incarnation") != "1" ||
		h.Get("X-Store-Expires") != "4000000000000" || h.Get("X-Store-Node") != "n1" {
		t.Errorf("get answers %q, %v", data, h)
	}
	if got := s.expect(t, "GET", "/v1/dump?prefix=a:", "", 200, ""); got !=
		`{"key":"a:\\x00\\\\é","value":"v\\x00\\xff","epoch":7,"incarnation":1,"expires":4000000000000}`+"\n" {
		t.Errorf("dump answers %s", got)
	}
	s.expect(t, "DELETE", "/v1/value?"+key, "", 200, "")
	s.expect(t, "GET", "/v1/value?"+key, "", 404, "NOT_FOUND")
	if got := s.expect(t, "GET", "/v1/dump", "", 200, ""); got != "" {
		t.Errorf("dump answers %s", got)
	}
}

func TestBadRequests(t *testing.T) {
	s := newSite(t)
	long := strings.Repeat("x", bbolt.MaxKeySize+1)
	for _, path := range []string{"/v1/value", "/v1/value?key=", "/v1/value?key=%5Cq", "/v1/value?key=%FF", "/v1/value?key=a&key=b",
		"/v1/value?key=a&ttl=1", "/v1/value?key=a&expires=soon", "/v1/value?key=a&expires=-1", "/v1/value?key=" + long, "/v1/value?key=a;b"} {
		s.expect(t, "PUT", path, "v", 400, "INVALID")
	}
	s.expect(t, "PUT", "/v1/value?key=a", strings.Repeat("x", maxValue+1), 413, "TOO_LARGE")
	s.expect(t, "DELETE", "/v1/value?key=a", "body", 413, "TOO_LARGE")
	s.expect(t, "POST", "/v1/values", strings.Repeat(" ", maxBody+1), 413, "TOO_LARGE")
	for _, body := range []string{"", "{}", "[]", "[1]", `[{"key":"a","value":"b"}] x`, `[{"key":"a","valu":"b"}]`, `[{"key":"","value":"b"}]`,
		`[{"key":"a","value":"\\q"}]`, "[{\"key\":\"a\",\"value\":\"\xff\"}]", `[{"key":"a","value":"b","expires":-1}]`,
		"[" + strings.Repeat(`{"key":"a","value":"b"},`, maxKeys) + `{"key":"a","value":"b"}]`} {
		s.expect(t, "POST", "/v1/values", body, 400, "INVALID")
	}
	s.expect(t, "GET", "/v1/dump?prefix=%5Cq", "", 400, "INVALID")
	s.expect(t, "GET", "/v1/status?prefix=%5Cq", "", 400, "INVALID")
	if len(s.asked) > 0 {
		t.Errorf("the guard was asked for %q", <-s.asked)
	}
	s.expect(t, "PUT", "/v1/value?key=a", strings.Repeat("x", maxValue), 200, "")
}

// What the guard says goes to the client, and a write whose tenure was lost meanwhile is not acknowledged.
func TestRefusedWrites(t *testing.T) {
	s := newSite(t)
	s.gate.refuse = &client.Error{Code: "MISDIRECTED", Detail: "writer is 10.0.0.1:1", Owner: "n2", Addr: "10.0.0.1:1", RetryMS: 5}
	data := s.expect(t, "PUT", "/v1/value?key=a", "v", 409, "MISDIRECTED")
	var got client.Error
	if err := json.Unmarshal([]byte(data), &got); err != nil || got.Owner != "n2" || got.Addr != "10.0.0.1:1" || got.RetryMS != 5 {
		t.Errorf("got %s", data)
	}
	s.expect(t, "POST", "/v1/values", `[{"key":"a","value":"1"},{"key":"b","value":"2"}]`, 409, "MISDIRECTED")
	s.expect(t, "GET", "/v1/value?key=a", "", 404, "NOT_FOUND")
	s.gate.refuse = io.ErrUnexpectedEOF
	s.expect(t, "DELETE", "/v1/value?key=a", "", 500, "INTERNAL")
	s.gate.refuse, s.lost = nil, &client.Error{Code: "OUTCOME_UNKNOWN", Detail: "the lease ended"}
	s.expect(t, "PUT", "/v1/value?key=a", "v", 504, "OUTCOME_UNKNOWN")
}

func TestPutMany(t *testing.T) {
	s := newSite(t)
	before := lastTx(t, s.Disk)
	s.expect(t, "POST", "/v1/values", `[{"key":"a:1","value":"\\x00"},{"key":"a:2","value":"2"},{"key":"a:1","value":"3"}]`, 200, "")
	if asked := <-s.asked; strings.Join(asked, " ") != "a:1 a:2 a:1" || len(s.asked) > 0 {
		t.Errorf("the guard was asked for %q", asked)
	}
	if n := lastTx(t, s.Disk) - before; n != 1 {
		t.Errorf("the keys were written in %d transactions", n)
	}
	if got := s.expect(t, "GET", "/v1/value?key=a:1", "", 200, ""); got != "3" {
		t.Errorf("the later value does not hold: %q", got)
	}
}

// While a write is admitted its scope cannot move: that must not wait for a client that sends slowly.
func TestSlowClientHoldsNoScope(t *testing.T) {
	s := newSite(t)
	body, feed := io.Pipe()
	answered := make(chan string)
	go func() {
		_, _, data := s.ask(t, "PUT", "/v1/value?key=a", body)
		answered <- data
	}()
	if _, err := feed.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	for len(s.writing) == 0 {
		runtime.Gosched() // until the request is being read
	}
	if len(s.asked) > 0 {
		t.Error("the guard was asked before the value was there")
	}
	_, _ = feed.Write([]byte(" and half"))
	_ = feed.Close()
	if data := <-answered; !strings.Contains(data, "epoch") || len(s.asked) != 1 {
		t.Errorf("got %s", data)
	}
	if got := s.expect(t, "GET", "/v1/value?key=a", "", 200, ""); got != "half and half" {
		t.Errorf("got %q", got)
	}
}

func TestWhoMayBeRead(t *testing.T) {
	s := newSite(t)
	s.expect(t, "PUT", "/v1/value?key=a:1", "v", 200, "")
	read := func(want int, code string) { s.expect(t, "GET", "/v1/value?key=a:1", "", want, code) }
	s.view = false
	read(503, "UNAVAILABLE")
	s.expect(t, "GET", "/readyz", "", 503, "UNAVAILABLE")
	s.view = true
	s.expect(t, "GET", "/readyz", "", 200, "")
	for _, s.owner = range []scope.NodeID{"n1", ""} { // "": in no scope
		read(200, "")
	}
	s.owner = "n2"
	read(409, "MISDIRECTED")
	// The flip is known, and the slice is not there yet: what is, is older.
	s.owner = "n1"
	slice := client.Slice{Move: "m", Prefix: "a:"}
	if err := s.Disk.Stage(t.Context(), slice, nil); err != nil {
		t.Fatal(err)
	}
	read(409, "QUIESCED")
	if err := s.Disk.Promote(t.Context(), slice); err != nil {
		t.Fatal(err)
	}
	read(404, "NOT_FOUND")
}

// A dump that cannot go on must not look like one that is complete.
func TestBrokenDump(t *testing.T) {
	s := newSite(t)
	s.expect(t, "PUT", "/v1/value?key=a", "v", 200, "")
	if err := s.Disk.db.Update(func(tx *bbolt.Tx) error { return values(tx).Put([]byte("b"), []byte("?")) }); err != nil {
		t.Fatal(err)
	}
	s.expect(t, "GET", "/v1/value?key=b", "", 500, "INTERNAL")
	resp, err := s.http.Client().Get(s.http.URL + "/v1/dump")
	if err == nil {
		_, err = io.Copy(&bytes.Buffer{}, resp.Body)
		_ = resp.Body.Close()
	}
	if err == nil {
		t.Error("the dump ended well")
	}
}

func TestStatus(t *testing.T) {
	s := newSite(t)
	s.expect(t, "PUT", "/v1/value?key=a:1", "v", 200, "")
	s.expect(t, "GET", "/v1/value?key=a:2", "", 404, "NOT_FOUND")
	if err := s.Disk.Stage(t.Context(), client.Slice{Move: "m", Prefix: "a:"}, nil); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	data := s.expect(t, "GET", "/v1/status?"+url.Values{"prefix": {"a:"}}.Encode(), "", 200, "")
	if err := json.Unmarshal([]byte(data), &got); err != nil {
		t.Fatal(err)
	}
	for field, want := range map[string]any{"node": "n1", "ready": true, "session": "session", "written": 1.0, "read": 0.0, "refused": 1.0,
		"records": 1.0} {
		if got[field] != want {
			t.Errorf("%s is %v, want %v", field, got[field], want)
		}
	}
	if staged, ok := got["staged"].([]any); !ok || len(staged) != 1 || staged[0] != "m" {
		t.Errorf("staged is %v", got["staged"])
	}
}
