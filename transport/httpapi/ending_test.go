package httpapi

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
)

// A watch ends when its token does, and those of others go on.
func TestWatchEndsWithItsToken(t *testing.T) {
	for _, accept := range []string{linesType, eventsType} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			anonymous := b.watching(accept)
			b.token("admin", &fsm.CreateToken{Role: "admin"})
			contains(t, <-anonymous.end, `"code":"UNAUTHENTICATED"`, "admits nobody unknown")
			<-time.After(time.Until(time.UnixMilli(2e12)))
			b.token("a", &fsm.CreateToken{Role: "viewer"})
			b.token("b", &fsm.CreateToken{Role: "viewer", ExpiresMs: time.Now().Add(2500 * time.Millisecond).UnixMilli()})
			revoked, expires, stays := b.watching(accept, bearing("a")...), b.watching(accept, bearing("b")...), b.watching(accept, bearing("admin")...)
			start := time.Now()
			b.propose(&fsm.RevokeToken{Id: "a"})
			contains(t, <-revoked.end, `"code":"UNAUTHENTICATED"`)
			if took := time.Since(start); took > 0 {
				t.Errorf("revoked: ended after %v", took)
			}
			contains(t, <-expires.end, `"code":"UNAUTHENTICATED"`, "has expired")
			if took := time.Since(start); took != 2500*time.Millisecond {
				t.Errorf("expired: ended after %v", took)
			}
			<-time.After(2 * heartbeatEvery)
			select {
			case <-stays.end:
				t.Error("the watch of another token has ended")
			default:
			}
			stays.stop()
			if text := <-stays.end; strings.Contains(text, "error") || strings.Contains(text, `"type":"change"`) {
				t.Errorf("tokens were shown: %s", text)
			}
		})
	}
}

// watched is a watch that runs; end takes all that it sent.
type watched struct {
	end  chan string
	stop func()
}

func (b *bench) watching(accept string, headers ...string) watched {
	ctx, stop := context.WithCancel(b.t.Context())
	req := httptest.NewRequestWithContext(ctx, "GET", "/v1/watch", nil)
	req.Header.Set("Accept", accept)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	w := watched{make(chan string, 1), stop}
	go func() {
		defer stop()
		rec := httptest.NewRecorder()
		b.h.ServeHTTP(rec, req)
		w.end <- rec.Body.String()
	}()
	synctest.Wait()
	return w
}

// A backup breaks off when its token is revoked meanwhile.
func TestBackupEndsWithItsToken(t *testing.T) {
	b := newBench(t)
	b.many(5000)
	b.token("admin", &fsm.CreateToken{Role: "admin"})
	b.token("op", &fsm.CreateToken{Role: "operator"})
	req := httptest.NewRequest("GET", "/v1/backup", nil)
	req.Header.Set("Authorization", "Bearer "+secretOf("op").Text())
	w := &revoking{ResponseRecorder: httptest.NewRecorder(), revoke: func() { b.propose(&fsm.RevokeToken{Id: "op"}) }}
	defer func() {
		if cut := recover(); cut != http.ErrAbortHandler || w.writes == 0 || w.Body.Len() > 2*writePiece {
			t.Errorf("%v after %d writes of %d bytes", cut, w.writes, w.Body.Len())
		}
	}()
	b.h.ServeHTTP(w, req)
}

// revoking revokes at the first write.
type revoking struct {
	*httptest.ResponseRecorder
	revoke func()
	writes int
}

func (w *revoking) Write(p []byte) (int, error) {
	if w.writes++; w.writes == 1 {
		w.revoke()
	}
	return w.ResponseRecorder.Write(p)
}
