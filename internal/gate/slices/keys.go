package slices

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/scope-registry/scope-registry/internal/gate/upstream"
	"github.com/scope-registry/scope-registry/scope"
)

const (
	// scanCount is what one SCAN looks at: about a tenth of a millisecond of the store's time.
	scanCount = 1000
	// wipeKeys bounds one UNLINK: the store does nothing else meanwhile.
	wipeKeys = 500
)

// pattern matches the keys under a prefix, in the store's glob patterns.
func pattern(p scope.Prefix) string {
	var b strings.Builder
	for i := range len(p) {
		if strings.IndexByte(`*?[]^-\`, p[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(p[i])
	}
	b.WriteByte('*')
	return b.String()
}

// isOurs tells a key of the gates, which is part of no slice, from those of clients.
func isOurs[T ~string | ~[]byte](key T) bool {
	return len(key) >= len(upstream.Reserved) && string(key[:len(upstream.Reserved)]) == upstream.Reserved
}

// addScan asks for one page of the keys under a prefix.
func addScan(c *conn, cursor string, p scope.Prefix) {
	args := []string{"SCAN", cursor, "COUNT", strconv.Itoa(scanCount)}
	if p != "" {
		args = append(args, "MATCH", pattern(p))
	}
	c.add(args...)
}

// readScan reads a page: the cursor of the next one, "0" after the last, and the keys, of which some may have come before.
func readScan(c *conn, p scope.Prefix, keys []string) (string, []string, error) {
	r, err := c.read(nil)
	if err == nil {
		err = r.err()
	}
	if err != nil {
		return "", keys, err
	}
	if len(r.items) != 2 {
		return "", keys, fmt.Errorf("%w: SCAN has %d parts", errProtocol, len(r.items))
	}
	for _, k := range r.items[1].items {
		if !p.Matches(k.text) {
			return "", keys, fmt.Errorf("SCAN with the pattern %q has the key %q", pattern(p), scope.BytesText(string(k.text)))
		}
		if !isOurs(k.text) {
			keys = append(keys, string(k.text))
		}
	}
	return string(r.items[0].text), keys, nil
}

// scan shows each every page of the keys under a prefix. The next page is on its way meanwhile.
func scan(c *conn, p scope.Prefix, each func(keys []string) error) error {
	addScan(c, "0", p)
	var keys []string
	for {
		if err := c.flush(); err != nil {
			return err
		}
		next, page, err := readScan(c, p, keys[:0])
		if err != nil {
			return err
		}
		keys = page
		if next != "0" {
			addScan(c, next, p)
			if err := c.flush(); err != nil {
				return err
			}
		}
		if err := each(keys); err != nil {
			return err
		}
		if next == "0" {
			return nil
		}
	}
}

// unlink deletes keys and says how many were there.
func unlink(c *conn, keys []string) (gone int64, err error) {
	for len(keys) > 0 {
		n := min(len(keys), wipeKeys)
		r, err := c.ask(append([]string{"UNLINK"}, keys[:n]...)...)
		if err != nil {
			return gone, err
		}
		gone, keys = gone+r.n, keys[n:]
	}
	return gone, nil
}

// wipe deletes all keys under a prefix, of which none comes meanwhile.
func wipe(ctx context.Context, l *link, p scope.Prefix) (gone int64, err error) {
	for cursor := "0"; ; {
		err := l.do(ctx, func(c *conn) error {
			addScan(c, cursor, p)
			if err := c.flush(); err != nil {
				return err
			}
			next, keys, err := readScan(c, p, nil)
			if err != nil {
				return err
			}
			cursor = next
			n, err := unlink(c, keys)
			gone += n
			return err
		})
		if err != nil || cursor == "0" {
			return gone, err
		}
	}
}
