package peer

import (
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/hashicorp/go-hclog"
)

// logEvery bounds warnings about what others do: a server of another cluster dials many times a second.
const logEvery = time.Second

// warner logs at most one warning per logEvery, with how many it left out before; the others are for debugging only.
type warner struct {
	log hclog.Logger

	mu      sync.Mutex // guards the rest
	last    time.Time
	leftOut int
}

func (w *warner) warn(msg string, args ...any) {
	w.mu.Lock()
	now := time.Now()
	due := w.last.IsZero() || now.Sub(w.last) >= logEvery
	if due {
		if w.leftOut > 0 {
			args = append(args, "left_out", w.leftOut)
		}
		w.last, w.leftOut = now, 0
	} else {
		w.leftOut++
	}
	w.mu.Unlock()
	if due {
		w.log.Warn(msg, args...)
	} else {
		w.log.Debug(msg, args...)
	}
}

// shown is a text that another program chose, for a log or an error: short, and see printable.
func shown(s string) string { return printable(s[:min(len(s), maxString)]) }

// printable is a text on one line, of characters that show.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}
