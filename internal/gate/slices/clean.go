package slices

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/scope-registry/scope-registry/scope"
)

const (
	// cleanKeys and cleanPages bound one call of Clean: some milliseconds of the store's time.
	cleanKeys  = 500
	cleanPages = 32
	// interrupted is how long after a call the next one begins from the beginning: the scope may have come back meanwhile, and
	// have gone again. It is far less than the shortest sensible grace time, and a call follows the other by milliseconds.
	interrupted = 250 * time.Millisecond
)

// old is the deletion of an old copy, from one call of Clean to the next.
type old struct {
	link   link
	prefix scope.Prefix
	cursor string // "" is none
	found  bool   // any key in this round
	last   time.Time
}

// Clean implements [client.Store]. A scan goes round until it has found nothing. When it returns nothing that it asked for
// can execute any more, also if it failed: the scope may come back at once.
func (s *Store) Clean(ctx context.Context, p scope.Prefix) (more bool, err error) {
	o := &s.old
	if o.cursor == "" || o.prefix != p || time.Since(o.last) > interrupted {
		o.prefix, o.cursor, o.found = p, "0", false
	}
	err = o.link.do(ctx, o.round)
	o.last = time.Now()
	if err != nil {
		o.cursor = ""
		return true, s.certainly(&o.link, err)
	}
	if o.cursor != "0" {
		return true, nil
	}
	more = o.found
	o.cursor, o.found = "", false
	if more {
		return true, nil
	}
	defer o.link.close()
	// What was deleted must not be back after a crash, where the store can promise that.
	_, err = o.link.ask(ctx, "WAITAOF", "1", "0", strconv.Itoa(syncTime))
	if no := (*refusal)(nil); err == nil || errors.As(err, &no) {
		return false, nil
	}
	return true, s.certainly(&o.link, err)
}

// round goes on with the scan, until it has deleted enough, or looked at enough, or is round.
func (o *old) round(c *conn) error {
	for pages, gone := 0, int64(0); pages < cleanPages && gone < cleanKeys; pages++ {
		addScan(c, o.cursor, o.prefix)
		if err := c.flush(); err != nil {
			return err
		}
		next, keys, err := readScan(c, o.prefix, nil)
		if err != nil {
			return err
		}
		o.cursor, o.found = next, o.found || len(keys) > 0
		n, err := unlink(c, keys)
		if err != nil || next == "0" {
			return err
		}
		gone += n
	}
	return nil
}
