package httpapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// Each length, one byte over its limit, is refused with both numbers, and
// nothing is proposed. Those of batches, pages, watchers, waits and downloads
// are tested where these are.
func TestLengthLimits(t *testing.T) {
	b := newBench(t)
	long := func(n int) string { return strings.Repeat("x", n+1) }
	prefix, id, text, random := long(scope.MaxPrefixLen), long(scope.MaxNodeIDLen), long(MaxHeaderText), long(fsm.MaxRandom)
	open := `{"identity":"i","session":"s","token":"` + long(MaxToken) + `","incarnation":1,"incarnation_tag":"t","view_index":0}`
	for _, c := range []struct {
		limit                int
		method, target, body string
		header               []string
	}{
		{scope.MaxKeyLen, "GET", "/v1/route?key=" + long(scope.MaxKeyLen), "", nil},
		{scope.MaxKeyLen, "GET", "/v1/explain?key=" + long(scope.MaxKeyLen), "", nil},
		{scope.MaxKeyLen, "GET", "/v1/moves?key=" + long(scope.MaxKeyLen), "", nil},
		{scope.MaxPrefixLen, "GET", "/v1/scope?prefix=" + prefix, "", nil},
		{scope.MaxPrefixLen, "PUT", "/v1/scope?prefix=" + prefix, `{"writer":"a"}`, nil},
		{scope.MaxPrefixLen, "DELETE", "/v1/scope?prefix=" + prefix, "", nil},
		{scope.MaxPrefixLen, "GET", "/v1/scopes?under=" + prefix, "", nil},
		{scope.MaxPrefixLen, "GET", "/v1/scopes?after=" + prefix, "", nil},
		{scope.MaxPrefixLen, "POST", "/v1/moves", `{"prefix":"` + prefix + `","from":"a","to":"b"}`, nil},
		{scope.MaxPrefixLen, "POST", "/v1/apply", `{"scopes":[{"prefix":"` + prefix + `","writer":"a"}]}`, nil},
		{scope.MaxNodeIDLen, "GET", "/v1/route?key=x&as=" + id, "", nil},
		{scope.MaxNodeIDLen, "GET", "/v1/nodes/" + id, "", nil},
		{scope.MaxNodeIDLen, "PUT", "/v1/nodes/" + id, `{"addr":"h:1"}`, nil},
		{scope.MaxNodeIDLen, "PUT", "/v1/scope?prefix=x", `{"writer":"` + id + `"}`, nil},
		{scope.MaxNodeIDLen, "POST", "/v1/moves", `{"prefix":"x","from":"a","to":"` + id + `"}`, nil},
		{scope.MaxNodeIDLen, "POST", "/v1/cluster/members", `{"id":"` + id + `","addr":"h:1"}`, nil},
		{scope.MaxNodeIDLen, "DELETE", "/v1/cluster/members/" + id, "", nil},
		{scope.MaxNodeIDLen, "POST", "/v1/cluster/transfer", `{"to":"` + id + `"}`, nil},
		{fsm.MaxRandom, "PUT", "/v1/sessions/" + random, `{"view_index":1}`, nil},
		{fsm.MaxRandom, "DELETE", "/v1/sessions/" + random, "", nil},
		{fsm.MaxRandom, "POST", "/v1/nodes/a/session", strings.Replace(open, `"i"`, `"`+random+`"`, 1), nil},
		{fsm.MaxRandom, "POST", "/v1/nodes/a/session", strings.Replace(open, `"s"`, `"`+random+`"`, 1), nil},
		{fsm.MaxRandom, "POST", "/v1/nodes/a/fence", `{"identity":"` + random + `"}`, nil},
		{fsm.MaxRandom, "POST", "/v1/moves/m1/shipped", `{"session":"` + random + `"}`, nil},
		{fsm.MaxRandom, "POST", "/v1/moves/m1/ready", `{"session":"` + random + `"}`, nil},
		{fsm.MaxRandom, "POST", "/v1/moves/m1/abort", `{"session":"` + random + `"}`, nil},
		{fsm.MaxRandom, "POST", "/v1/moves/m1/cleaned", `{"session":"` + random + `","node":"a","prefix":"","epoch":1}`, nil},
		{fsm.MaxRandom, "POST", "/v1/moves/m1/progress", `{"session":"` + random + `","keys":0,"bytes":0,"keys_left":0,"bytes_left":0}`, nil},
		{fsm.MaxRandom, "DELETE", "/v1/scope?prefix=x&source_fenced=a&source_fenced_identity=" + random, "", nil},
		{fsm.MaxRandom, "PUT", "/v1/scope?prefix=x", `{"writer":"a","source_fenced":"a","source_fenced_identity":"` + random + `"}`, nil},
		{fsm.MaxRandom, "POST", "/v1/force", `{"prefix":"x","to":"b","expected_epoch":1,"accept_loss":true,"source_fenced":"a","source_fenced_identity":"` + random + `"}`, nil},
		{MaxToken, "POST", "/v1/nodes/a/session", open, nil},
		{MaxToken, "POST", "/v1/nodes/a/session", strings.Replace(strings.Replace(open, long(MaxToken), long(MinToken), 1), `"view`, `"previous_token":"`+long(MaxToken)+`","view`, 1), nil},
		{MaxHeaderText, "PUT", "/v1/nodes/a", `{"addr":"h:1"}`, []string{"Idempotency-Key", text}},
		{MaxHeaderText, "PUT", "/v1/nodes/a", `{"addr":"h:1"}`, []string{"X-Registry-Actor", text}},
		{fsm.MaxReason, "PUT", "/v1/nodes/a", `{"addr":"h:1"}`, []string{"X-Registry-Reason", long(fsm.MaxReason)}},
	} {
		p := b.refused(api.Invalid, c.method, c.target, c.body, c.header...)
		if !strings.Contains(p.Detail, fmt.Sprint(c.limit)) || !strings.Contains(p.Detail, fmt.Sprint(c.limit+1)) {
			t.Errorf("%s %.30s: %q does not name %d and %d", c.method, c.target, p.Detail, c.limit+1, c.limit)
		}
	}
	if len(b.reg.Asked) != 0 {
		t.Errorf("%d commands were proposed", len(b.reg.Asked))
	}
}

// rest reads what the server still says, and how long after start it ends the
// connection.
func rest(conn net.Conn, start time.Time) (string, time.Duration) {
	said, _ := io.ReadAll(conn) // until the server closes
	return string(said), time.Since(start)
}

func TestTimeLimits(t *testing.T) {
	const put = "PUT /v1/nodes/a HTTP/1.1\r\nHost: pipe\r\nContent-Length: 14\r\n\r\n"
	for _, c := range []struct {
		what, sent string
		after      time.Duration
		said       string
	}{
		{"nothing", "", readHeaderTimeout, ""},
		{"half a header", "GET /healthz HTTP/1.1\r\nHost:", readHeaderTimeout, ""},
		{"half a body", put + `{"addr"`, bodyReadTimeout, `"code":"INVALID"`},
		{"half a body that nobody asked for", strings.Replace(put, "/v1/nodes/a", "/nowhere", 1) + "{", strayTimeout, `"code":"NOT_FOUND"`},
		{"half a body of a GET", strings.Replace(put, "PUT", "GET", 1) + "{", strayTimeout, `"code":"NOT_FOUND"`},
		{"half a body of a watch", strings.Replace(put, "PUT /v1/nodes/a", "GET /v1/watch", 1) + "{", strayTimeout, `"code":"INVALID"`},
		{"a connection kept for nothing", "GET /healthz HTTP/1.1\r\nHost: pipe\r\n\r\n", idleTimeout, "\r\n\r\nok"},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			w, stop := wired(t, b.h)
			start := time.Now()
			said, took := rest(w.dial(c.sent), start)
			// A connection is closed a moment after a reply, so that the reply arrives.
			if took < c.after || took > c.after+time.Second || !strings.Contains(said, c.said) {
				t.Errorf("%s: ended after %v, want %v, with %q", c.what, took, c.after, said)
			}
			if len(b.reg.Asked) != 0 {
				t.Errorf("%s: something was proposed", c.what)
			}
			stop()
		})
	}
}

// net/http answers this itself, before there is a request.
func TestHeaderSizeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stop := wired(t, newBench(t).h)
		for size, want := range map[int]int{maxHeaderBytes - 200: 200, maxHeaderBytes + 8<<10: http.StatusRequestHeaderFieldsTooLarge} {
			conn := w.dial("")
			sent := make(chan error, 1)
			go func() {
				_, err := fmt.Fprintf(conn, "GET /healthz HTTP/1.1\r\nHost: pipe\r\nX-Long: %s\r\n\r\n", strings.Repeat("x", size))
				sent <- err
			}()
			res := w.reply(conn)
			if res.StatusCode != want {
				t.Errorf("%d bytes: %s", size, res.Status)
			}
			_ = conn.Close()
			_ = res.Body.Close()
			if err := <-sent; (err == nil) != (want == 200) {
				t.Errorf("%d bytes: sent with %v", size, err)
			}
		}
		stop()
	})
}

// Beyond the limit the oldest connection that has said nothing makes room; where none does, the next one is refused.
func TestServeLimitsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.moving()
		w, stop := wired(t, b.h)
		var open []net.Conn
		for range MaxConns {
			open = append(open, w.dial(""))
		}
		ask := func() (int, problem) {
			conn := w.dial("")
			defer conn.Close()
			go func() { _, _ = io.WriteString(conn, "GET /v1/nodes/zz HTTP/1.1\r\nHost: pipe\r\n\r\n") }() // nobody reads it when it is refused
			res := w.reply(conn)
			defer res.Body.Close()
			var p problem
			if err := json.NewDecoder(res.Body).Decode(&p); err != nil {
				t.Fatal(err)
			}
			return res.StatusCode, p
		}
		if status, p := ask(); status != 404 || p.Code != api.NotFound {
			t.Errorf("%d %+v", status, p)
		}
		if _, err := open[0].Read(make([]byte, 1)); err == nil {
			t.Error("the oldest is still open")
		}
		for _, c := range open {
			_ = c.Close()
		}
		synctest.Wait()
		busy := w.crowd(MaxConns)
		if status, p := ask(); status != 429 || p.Code != api.Limit {
			t.Errorf("%d %+v", status, p)
		} else {
			contains(t, p.Detail, fmt.Sprint(MaxConns))
		}
		for _, c := range busy {
			_ = c.Close()
		}
		stop()
	})
}

// crowd opens connections that are in a request: the header of each is there, and its body is not.
func (w *wire) crowd(n int) (busy []net.Conn) {
	w.t.Helper()
	for i := range n {
		here, there := net.Pipe()
		w.conns <- addressed{there, fmt.Sprintf("10.0.%d.%d:1", i>>8, i&255)}
		if _, err := io.WriteString(here, "PUT /v1/nodes/a HTTP/1.1\r\nHost: pipe\r\nContent-Length: 14\r\n\r\n{"); err != nil {
			w.t.Fatal(err)
		}
		busy = append(busy, here)
	}
	synctest.Wait()
	return busy
}

// addressed is a connection from somewhere.
type addressed struct {
	net.Conn
	from string
}

func (a addressed) RemoteAddr() net.Addr { return &net.UnixAddr{Name: a.from, Net: "pipe"} }
