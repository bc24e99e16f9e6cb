package peer

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Others decide how often there is something to warn about, and what their names are, but not how much is logged nor what
// looks like a line of ours.
func TestWarnings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		w := warner{log: hclog.New(&hclog.LoggerOptions{Output: &out, Level: hclog.Warn})}
		for range 1000 {
			w.warn("refused", "server", shown("s2\n2026 [WARN] all is well\x1b[0m"))
			<-time.After(10 * time.Millisecond)
		}
		if n := strings.Count(out.String(), "\n"); n != 10 || strings.Count(out.String(), "left_out=99") != 9 || strings.ContainsRune(out.String(), 0x1b) {
			t.Errorf("%d lines:\n%s", n, out.String())
		}
	})
	if got := shown(strings.Repeat("x", 2*maxString)); len(got) != maxString {
		t.Errorf("%d bytes are shown", len(got))
	}
	m := openMux(t, "s1", nil)
	if _, a := enrol(t, m, "a\nb"); a.code != answerRefused || !strings.Contains(a.text, `no server id but "a b"`) {
		t.Errorf("%+v", a)
	}
}
