package main

import (
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	// liveEvery is how often the live line is drawn: its seconds never jump.
	liveEvery = 250 * time.Millisecond
	// defaultColumns is the width of a terminal that does not tell.
	defaultColumns = 80
)

// columns is the width of the terminal w is, 0 if it is none or cannot rewrite a line.
func columns(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	if size.Col == 0 {
		return defaultColumns
	}
	return int(size.Col)
}

// isTerminal says whether somebody may be typing there.
func isTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	return err == nil
}

// live is a line at the end of standard error that is rewritten in place. It
// uses no colours. What else is written meanwhile goes through it.
type live struct {
	out   io.Writer
	width func() int
	text  func(now time.Time) string
	stop  chan struct{}
	done  chan struct{}

	mu    sync.Mutex // guards what follows, and that writes do not mix
	drawn bool       // the line is on the screen, the cursor behind it
	open  bool       // somebody else's line has not ended: nothing may be drawn over it
}

// goLive shows text until the returned function is called. It does nothing
// where standard error is no terminal, and with --quiet.
func (c *cli) goLive(text func(now time.Time) string) (end func()) {
	if c.quiet || c.width() == 0 {
		return func() {}
	}
	l := &live{out: c.err, width: c.width, text: text, stop: make(chan struct{}), done: make(chan struct{})}
	before := c.err
	c.err = l
	go l.run()
	return func() {
		close(l.stop)
		<-l.done
		c.err = before
	}
}

func (l *live) run() {
	defer close(l.done)
	t := time.NewTicker(liveEvery)
	defer t.Stop()
	for {
		l.draw()
		select {
		case <-t.C:
		case <-l.stop:
			l.mu.Lock()
			l.clear()
			l.mu.Unlock()
			return
		}
	}
}

func (l *live) draw() {
	text := fit(printable(l.text(time.Now()), ""), l.width())
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open || text == "" {
		return
	}
	_, _ = io.WriteString(l.out, "\r"+text+"\x1b[K")
	l.drawn = true
}

// clear takes the line away. mu is held.
func (l *live) clear() {
	if l.drawn {
		_, _ = io.WriteString(l.out, "\r\x1b[K")
		l.drawn = false
	}
}

// Write writes above the line.
func (l *live) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clear()
	if len(p) > 0 {
		l.open = p[len(p)-1] != '\n'
	}
	return l.out.Write(p)
}

// fit cuts text to less than width columns, as a terminal wraps a line that
// fills it.
func fit(text string, width int) string {
	room := width - 1
	if cells(text) <= room {
		return text
	}
	const more = "…"
	used, end := cells(more), 0
	for i, r := range text {
		if used += cells(string(r)); used > room {
			break
		}
		end = i + utf8.RuneLen(r)
	}
	if end == 0 {
		return ""
	}
	return strings.TrimRight(text[:end], " ") + more
}

// cells is the most columns that text may take: runes outside ASCII may take two.
func cells(text string) int {
	n := 0
	for _, r := range text {
		n++
		if r > '~' {
			n++
		}
	}
	return n
}
