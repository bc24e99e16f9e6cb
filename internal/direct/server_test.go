package direct

import (
	"net/http"
	"net/http/httptest"
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
		s := New("s1", ts.URL)
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
		if _, err := s.Do(t.Context(), ask, nil); api.CodeOf(err) != api.Unavailable {
			t.Errorf("a server that is not there: %v, want %s", err, api.Unavailable)
		}
		s.Close()
	}
}
