package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
)

const (
	// lookEvery is how often a move is asked for while it runs, and so how late a
	// phase is shown. Its end is shown at once: the server answers then.
	lookEvery = time.Second
	// tellEvery is how often progress is told where it is told in lines: more would
	// hide what else is said.
	tellEvery = 5 * time.Second
	// lookPause keeps a server that answers at once, as it shuts down, from being asked in a loop.
	lookPause = 100 * time.Millisecond
)

// follow looks at a move until it ends, and shows every look to saw. The error
// is that of ctx, or of the look; with patient a look that fails is tried again.
func follow(ctx context.Context, cl *client.Client, id string, patient bool, saw func(api.Move)) (api.Move, error) {
	for {
		m, err := cl.Move(ctx, id, lookEvery)
		if ctx.Err() != nil {
			return m, ctx.Err()
		}
		if err == nil {
			saw(m)
			if ended(m) {
				return m, nil
			}
		} else if !patient {
			return m, err
		}
		select {
		case <-ctx.Done():
			return m, ctx.Err()
		case <-time.After(lookPause):
		}
	}
}

func ended(m api.Move) bool { return m.Phase == "done" || m.Phase == "aborted" }

// await waits until the move has ended. limit 0 waits for ever.
func (c *cli) await(ctx context.Context, cl *client.Client, id string, limit time.Duration) error {
	outer := ctx
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	t := c.track()
	m, err := follow(ctx, cl, id, false, t.saw)
	t.end()
	switch {
	case ctx.Err() != nil && outer.Err() == nil:
		return &api.Error{Code: api.Timeout, Move: id, Detail: fmt.Sprintf("move %s did not end within %v; it goes on", id, limit)}
	case ctx.Err() != nil:
		return &api.Error{Code: api.Timeout, Move: id, Detail: fmt.Sprintf("stopped waiting for move %s; it goes on", id)}
	case err != nil:
		return err
	}
	if err := c.move(m); err != nil || m.Phase == "done" {
		return err
	}
	return aborted(m, "")
}

// tracker shows how a move goes on: as the live line, or as one line of
// standard error for each phase.
type tracker struct {
	c    *cli
	live bool
	end  func() // ends the live line

	mu    sync.Mutex // guards what follows
	move  api.Move
	doing string    // what this program does about it; "" only waits
	told  time.Time // when progress was told last, as a line
}

func (c *cli) track() *tracker {
	t := &tracker{c: c, live: !c.quiet && c.width() > 0}
	t.end = c.goLive(t.text)
	return t
}

// do says what this program does from now on.
func (t *tracker) do(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.doing = what
}

// saw takes a look at the move.
func (t *tracker) saw(m api.Move) {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := len(t.move.Stamps)
	if known > 0 && len(m.Stamps) <= known { // nothing new, or a server that is behind
		if len(m.Stamps) == known {
			t.advanced(m)
		}
		return
	}
	if known == 0 && len(m.Stamps) > 0 { // what was before the first look is no news, nor is it an end
		known = len(m.Stamps) - 1
		if ended(m) {
			known++
		}
	}
	t.move = m
	if t.live {
		return
	}
	if m.Progress != nil {
		t.told = time.Now()
	}
	for i := known; i < len(m.Stamps); i++ {
		if i == len(m.Stamps)-1 && !ended(m) {
			t.c.remark("%s", progress(m, t.doing, time.Now()))
		} else {
			t.c.remark("%s %s", m.ID, m.Stamps[i].Phase)
		}
	}
}

// advanced takes a look within a phase that is known already. mu is held.
func (t *tracker) advanced(m api.Move) {
	old := t.move.Progress
	t.move = m
	if m.Progress == nil {
		t.move.Progress = old // the leader did not answer this time
		return
	}
	if moved := old == nil || old.Keys != m.Progress.Keys || old.Bytes != m.Progress.Bytes; t.live || !moved || time.Since(t.told) < tellEvery {
		return
	}
	t.told = time.Now()
	t.c.remark("%s", progress(m, t.doing, t.told))
}

func (t *tracker) text(now time.Time) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return progress(t.move, t.doing, now)
}

// progress is a running move in one line: its phase, for how long, the time
// left to the next deadline, and what is going on: how far its source is, where
// that is known.
func progress(m api.Move, doing string, now time.Time) string {
	if m.Waiting == nil {
		return ""
	}
	switch {
	case doing != "":
	case m.Progress != nil && m.Phase != "shipped": // what comes then is the target's
		doing = shipped(*m.Progress)
	default:
		doing = "waiting for " + m.Waiting.For
	}
	text := fmt.Sprintf("%s %s for %s", m.ID, m.Phase, whole(now.Sub(time.UnixMilli(m.Waiting.SinceMS))))
	if d := m.Waiting.Deadlines; len(d) > 0 {
		text += fmt.Sprintf(", %s left", whole(time.UnixMilli(d[0].AtMS).Sub(now)))
	}
	return text + ": " + doing
}

// whole is a time span in whole seconds, never less than none.
func whole(d time.Duration) string { return max(0, d).Truncate(time.Second).String() }
