package direct

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/scope-registry/scope-registry/internal/api"
)

func TestDo(t *testing.T) {
	ask := Request{Method: http.MethodPut, Path: "/v1/scope", RequestID: "id", Epoch: 7, Body: api.Declare{Writer: "a"}}
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter)
		code   api.Code
	}{
		"good": {func(w http.ResponseWriter) {
			w.Header().Set(api.HeaderIndex, "9")
			_, _ = w.Write([]byte(`{"index":9}`))
		}, ""},
		"refusal": {func(w http.ResponseWriter) {
			w.Header().Set(api.HeaderIndex, "9")
			w.WriteHeader(http.StatusConflict)
			_, _ = w.Write([]byte(`{"code":"STALE_EPOCH","epoch":3}`))
		}, api.StaleEpoch},
		"no index": {func(w http.ResponseWriter) { _, _ = w.Write([]byte(`{}`)) }, api.Internal},
		"no code": {func(w http.ResponseWriter) {
			w.Header().Set(api.HeaderIndex, "9")
			w.WriteHeader(http.StatusBadGateway)
		}, api.Internal},
		"no answer": {func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, api.OutcomeUnknown},
	} {
		got := make(chan http.Header, 1)
		ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got <- r.Header
			c.answer(w)
		}))
		s := New("s1", ts.URL, nil)
		var out api.Applied
		reply, err := s.Do(t.Context(), ask, &out)
		if c.code == "" {
			if err != nil || reply.Index != 9 || out.Index != 9 {
				t.Errorf("%s: %+v, %+v, %v", name, reply, out, err)
			}
		} else if api.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
		if h := <-got; h.Get(api.HeaderRequestID) != "id" || h.Get("If-Match") != "7" {
			t.Errorf("%s: sent the headers %v", name, h)
		}
		ts.Close()
		s.Close() // else a connection of before breaks, and nobody knows whether the change was made
		if _, err := s.Do(t.Context(), ask, nil); api.CodeOf(err) != api.Unavailable {
			t.Errorf("a server that is not there: %v, want %s", err, api.Unavailable)
		}
		s.Close()
	}
}

// A change whose server dies over it may have been made: the answer must not be
// that of a second try, which found nobody there.
func TestChangeIsNotSentAgain(t *testing.T) {
	var came atomic.Int32
	ts := httptest.NewUnstartedServer(nil)
	ts.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if came.Add(1) == 1 { // leaves a connection in the pool
			w.Header().Set(api.HeaderIndex, "9")
			return
		}
		_ = ts.Listener.Close()
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_ = conn.Close()
	})
	ts.Start()
	defer ts.Close()
	s := New("s1", ts.URL, nil)
	defer s.Close()
	if _, err := s.Do(t.Context(), Get("/healthz"), nil); err != nil {
		t.Fatal(err)
	}
	ask := Request{Method: http.MethodPost, Path: "/v1/moves", RequestID: "id", Body: api.StartMove{}}
	if _, err := s.Do(t.Context(), ask, nil); api.CodeOf(err) != api.OutcomeUnknown {
		t.Errorf("%v, want %s", err, api.OutcomeUnknown)
	}
	if n := came.Load(); n != 2 {
		t.Errorf("%d requests came", n)
	}
}
