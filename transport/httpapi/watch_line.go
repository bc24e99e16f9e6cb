package httpapi

import (
	"bytes"
	"encoding/json"
	"strconv"
	"sync"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/view"
)

// line is an item as it goes out: a JSON line, or with events a server-sent event.
func line(item api.WatchItem, events bool) ([]byte, error) {
	var out bytes.Buffer
	if events {
		out.WriteString(eventHead(item))
	}
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(item); err != nil { // which ends the line
		return nil, err
	}
	if events {
		out.WriteByte('\n')
	}
	return out.Bytes(), nil
}

// eventHead is what stands before the data of an event. The id is what an
// EventSource resumes from: inside a snapshot there is nothing to resume, and
// after an error it has to begin anew, which the empty id makes it do.
func eventHead(item api.WatchItem) string {
	head := "event: " + item.Type + "\n"
	switch {
	case item.Error != nil:
		head += "id:\n"
	case !item.More:
		head += "id: " + strconv.FormatUint(item.Index, 10) + "\n"
	}
	return head + "data: "
}

// lines holds the newest item as it goes out, so that it is encoded once for all watchers and not for each. Those that are
// behind encode theirs: they are few, and each at another place.
type lines struct {
	mu     sync.Mutex // guards the rest
	newest *fsm.Event // the first of the item's
	index  uint64
	made   map[bool][]byte // by whether it is an event
}

// of is an item that changed something; nil if nothing of it is shown. The answer is shared: read only.
func (l *lines) of(item fsm.Item, events bool) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock() // also while it is encoded: whoever else comes wants the same
	if first := &item.Events[0]; l.newest != first {
		if l.newest != nil && item.Index <= l.index {
			return encoded(item, events)
		}
		l.newest, l.index, l.made = first, item.Index, map[bool][]byte{}
	}
	if made, ok := l.made[events]; ok {
		return made, nil
	}
	made, err := encoded(item, events)
	if err == nil {
		l.made[events] = made
	}
	return made, err
}

func encoded(item fsm.Item, events bool) ([]byte, error) {
	out := view.Item(item, item.Cluster, nowMS())
	if len(out.Changes) == 0 {
		return nil, nil
	}
	return line(out, events)
}
