package main

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/crash"
)

// get asks a server for path once it has applied all that was changed before.
func (t *tale) get(ctx context.Context, id, path string, out any, pairs ...string) (uint64, error) {
	pairs = append(pairs, "min_index", strconv.FormatUint(t.index, 10))
	index, err := t.servers.Get(ctx, id, path, out, pairs...)
	if err != nil {
		return index, fmt.Errorf("%s: GET %s: %w", id, path, err)
	}
	if index < t.index {
		return index, fmt.Errorf("%s: GET %s was answered at index %d, and %d was asked for", id, path, index, t.index)
	}
	return index, nil
}

// change sends a change to a server and notes the index it got.
func (t *tale) change(ctx context.Context, id, method, path string, query url.Values, body, out any) error {
	index, err := t.servers.Do(ctx, id, crash.Ask{Method: method, Path: path, Query: query, Body: body}, out)
	if err != nil {
		return fmt.Errorf("%s: %s %s: %w", id, method, path, err)
	}
	t.index = max(t.index, index)
	return nil
}

// verdicts asks every server that runs, and shows the answer they agree on.
func (t *tale) verdicts(ctx context.Context, all ...verdict) error {
	for _, v := range all {
		for _, id := range t.running() {
			var r api.Route
			if _, err := t.get(ctx, id, "/v1/route", &r, "key", v.key, "as", v.as); err != nil {
				return err
			}
			if r.Key != v.key || r.Verdict != v.want || r.Reply != v.reply {
				return fmt.Errorf("%s: %s asks for %s and gets %s %q, want %s %q", id, v.as, v.key, r.Verdict, r.Reply, v.want, v.reply)
			}
		}
		t.show("%s: %-22s as %-15s -> %s", strings.Join(t.running(), " "), v.key, v.as, v.reply)
	}
	return nil
}

func (t *tale) running() []string {
	var out []string
	for _, id := range t.servers.IDs() {
		if t.servers.Running(id) {
			out = append(out, id)
		}
	}
	return out
}

// follower is a server that does not lead.
func (t *tale) follower(ctx context.Context) (string, error) {
	leader, err := t.servers.Leader(ctx)
	if err != nil {
		return "", err
	}
	for _, id := range t.running() {
		if id != leader {
			return id, nil
		}
	}
	return "", fmt.Errorf("no follower runs beside %s", leader)
}
