package respapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/view"
	"github.com/scope-registry/scope-registry/transport/resp"
)

func eventCommands() []command {
	none := func(_ *conn, args [][]byte) error {
		return invalid("there are no patterns and no shards here; SUBSCRIBE %s", Channel)
	}
	return []command{
		{name: "SUBSCRIBE", action: access.Watch, args: Channel, about: "Every change from now on, each one message of JSON",
			group: groupRegistry, min: 1, max: anyNumber, pubsub: true, run: (*conn).subscribe},
		{name: "UNSUBSCRIBE", action: access.Connect, args: "[" + Channel + "]", about: "End the messages",
			group: groupRegistry, max: anyNumber, pubsub: true, run: (*conn).endSubscription},
		{name: "PSUBSCRIBE", about: "Not here: there is one channel", group: groupServer, max: anyNumber, pubsub: true, run: none},
		{name: "SSUBSCRIBE", about: "Not here: there is one channel", group: groupServer, max: anyNumber, pubsub: true, run: none},
		{name: "PUNSUBSCRIBE", about: "Not here: there is one channel", group: groupServer, max: anyNumber, pubsub: true, run: none},
		{name: "SUNSUBSCRIBE", about: "Not here: there is one channel", group: groupServer, max: anyNumber, pubsub: true, run: none},
	}
}

// subscription is the goroutine that sends messages on one connection.
type subscription struct {
	cancel context.CancelFunc
	ended  chan struct{}
}

// subscribe confirms each name and begins the messages with the first change
// after the state of now.
func (c *conn) subscribe(args [][]byte) error {
	for _, name := range args {
		if string(name) != Channel {
			return invalid("there is no channel '%s'; SUBSCRIBE %s", shown(name), Channel)
		}
	}
	var watcher *fsm.Watcher
	if c.sub == nil {
		var err error
		if watcher, err = c.srv.reg.Watch(0); err != nil {
			return err
		}
	}
	c.reply(func(w *resp.Writer) {
		for range args {
			confirm(w, "subscribe", Channel, 1)
		}
	})
	if watcher == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(c.srv.down)
	c.sub = &subscription{cancel, make(chan struct{})}
	c.describe(func(p *profile) { p.subscribed = true })
	c.srv.subscribers.Add(1)
	c.srv.metrics.subscribers.Inc()
	go func(ended chan struct{}) {
		defer close(ended)
		defer c.caught()
		c.follow(ctx, watcher)
	}(c.sub.ended)
	return nil
}

func confirm(w *resp.Writer, what, channel string, channels int64) {
	w.Push(3)
	w.BulkString(what)
	w.BulkString(channel)
	w.Int(channels)
}

func (c *conn) endSubscription(args [][]byte) error {
	was := c.sub != nil
	for _, name := range args {
		if string(name) == Channel {
			c.unsubscribe()
		}
	}
	if len(args) == 0 {
		c.unsubscribe()
	}
	left := int64(0)
	if c.sub != nil {
		left = 1
	}
	c.reply(func(w *resp.Writer) {
		for _, name := range args {
			confirm(w, "unsubscribe", string(name), left)
		}
		switch {
		case len(args) > 0:
		case was:
			confirm(w, "unsubscribe", Channel, 0)
		default:
			w.Push(3)
			w.BulkString("unsubscribe")
			w.Null()
			w.Int(0)
		}
	})
	return nil
}

// unsubscribe ends the messages: none comes after it. It does nothing without
// a subscription.
func (c *conn) unsubscribe() {
	if c.sub == nil {
		return
	}
	c.sub.cancel()
	<-c.sub.ended
	c.sub = nil
	c.describe(func(p *profile) { p.subscribed = false })
	c.srv.subscribers.Add(-1)
	c.srv.metrics.subscribers.Dec()
}

// follow sends messages until ctx ends. A client that does not read them fails
// the write at its deadline; one that falls out of the history is told. Either
// way its connection ends, and no other one has waited for it.
func (c *conn) follow(ctx context.Context, watcher *fsm.Watcher) {
	expires, cancel := c.untilExpiry(ctx)
	defer cancel()
	for {
		item, err := watcher.Next(expires)
		if ctx.Err() != nil {
			return
		}
		if gone := c.stillFollows(expires); gone != nil {
			err = gone
		}
		var message []byte
		if err == nil {
			if aboutTokens(item) {
				continue
			}
			message, err = c.srv.lines.of(item)
		}
		if err != nil {
			c.drop(err)
			return
		}
		if c.send(func(w *resp.Writer) {
			w.Push(3)
			w.BulkString("message")
			w.BulkString(Channel)
			w.Bulk(message)
		}) != nil {
			return // Write has closed the connection
		}
	}
}

// aboutTokens reports whether nothing of an item is to be seen.
func aboutTokens(item fsm.Item) bool {
	return len(item.Events) > 0 && !slices.ContainsFunc(item.Events, func(e fsm.Event) bool { return e.Token == nil })
}

// drop ends a subscriber's connection with what went wrong.
func (c *conn) drop(err error) {
	text, code := errorLine(err)
	reason := "behind"
	if code == api.Unauthenticated {
		reason = "revoked"
	}
	c.srv.metrics.refused.WithLabelValues(reason).Inc()
	_ = c.send(func(w *resp.Writer) { w.Error(text) }) // it ends anyway
	_ = c.nc.Close()
}

// lines makes the message of an item once for all subscribers, who mostly stand
// at the same one. The zero value is ready for use.
type lines struct{ newest [4]oneLine }

type oneLine struct {
	mu      sync.Mutex // guards the rest; held while the line is made, so that the others wait for it
	index   uint64
	cluster fsm.Cluster // the same index is another item after a restore
	text    []byte
}

// of is the message of an item. It is shared: read only.
func (l *lines) of(item fsm.Item) ([]byte, error) {
	slot := &l.newest[item.Index%uint64(len(l.newest))]
	slot.mu.Lock()
	defer slot.mu.Unlock()
	if slot.index == item.Index && slot.cluster == item.Cluster {
		return slot.text, nil
	}
	text, err := encode(view.Item(item, item.Cluster, nowMS()))
	if err == nil && item.Index > slot.index { // who is far behind does not take the place of the newest
		slot.index, slot.cluster, slot.text = item.Index, item.Cluster, text
	}
	return text, err
}

func encode(item api.WatchItem) ([]byte, error) {
	var line bytes.Buffer
	out := json.NewEncoder(&line)
	out.SetEscapeHTML(false)
	if err := out.Encode(item); err != nil {
		return nil, errors.Join(&api.Error{Code: api.Internal, Detail: "a change cannot be shown"}, err)
	}
	return bytes.TrimSuffix(line.Bytes(), []byte("\n")), nil
}
