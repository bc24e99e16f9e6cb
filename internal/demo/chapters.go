package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/certs"
	"github.com/scope-registry/scope-registry/internal/crash"
)

// What examples/scopes.toml declares and the story relies on.
const (
	billing, billingAddr = "embed-billing-1", "10.0.0.1:6004"
	auth, authAddr       = "embed-auth-1", "10.0.0.2:6004"
	search               = "embed-search-1"
	eu, euAddr           = "server-eu-1", "10.0.0.9:6004"
	moved                = "app:auth:"   // the scope that moves from auth to eu
	late                 = "app:orders:" // the scope that is declared while a server is down
)

// verdict is what a server must answer when a node asks for a key.
type verdict struct {
	key, as     string
	want, reply string
}

// certify makes the certificates as an operator does.
func (t *tale) certify(ctx context.Context, dir certs.Dir) error {
	t.say("scope-registry certs init --servers s1,s2,s3")
	if err := t.command(ctx, "certs", "init", "--dir", string(dir), "--servers", "s1,s2,s3", "--quiet", "-o", "jsonl"); err != nil {
		return err
	}
	held, err := dir.List(time.Now())
	if err != nil {
		return err
	}
	for _, one := range held {
		t.show("%-14s good until %s", filepath.Base(one.Cert), one.Until.UTC().Format(time.DateOnly))
	}
	return nil
}

// command runs the program, and shows what it prints unless that is for other programs.
func (t *tale) command(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, t.bin, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", args[0], args[1], err, out)
	}
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "{") {
			t.show("%s", strings.TrimRight(line, "\n"))
		}
	}
	return nil
}

func (t *tale) boot(ctx context.Context) error {
	if err := t.servers.WaitReady(ctx); err != nil {
		return err
	}
	leader, err := t.servers.Leader(ctx)
	if err != nil {
		return err
	}
	t.say("all three are ready; they elected %s", leader)
	return nil
}

// apply applies the file as an operator does, and reads it back from every server.
func (t *tale) apply(ctx context.Context) error {
	t.say("scope-registry scope apply -f %s", t.file)
	if err := t.command(ctx, append([]string{"scope", "apply", "-f", t.file, "--endpoints", t.servers.Endpoints()}, t.servers.Flags()...)...); err != nil {
		return err
	}
	leader, err := t.servers.Leader(ctx)
	if err != nil {
		return err
	}
	if t.index, err = t.servers.Get(ctx, leader, "/v1/scopes", nil, "consistency", "linearizable"); err != nil {
		return err
	}
	owners := map[string]string{"app:billing:": billing, moved: auth, "app:search:": search}
	for _, id := range t.servers.IDs() {
		var page struct {
			Scopes []api.Scope `json:"scopes"`
		}
		if _, err := t.get(ctx, id, "/v1/scopes", &page); err != nil {
			return err
		}
		if len(page.Scopes) != len(owners) {
			return fmt.Errorf("%s lists %d scopes, want %d", id, len(page.Scopes), len(owners))
		}
		for _, sc := range page.Scopes {
			if want := owners[sc.Prefix]; sc.Owner != want || sc.State != "owned" {
				return fmt.Errorf("%s: scope %q is %s by %q, want owned by %q", id, sc.Prefix, sc.State, sc.Owner, want)
			}
		}
	}
	return nil
}

func (t *tale) route(ctx context.Context) error {
	t.say("route keys on every server")
	return t.verdicts(ctx,
		verdict{"app:billing:invoice:7", billing, "OWNED", "OK"},
		verdict{"app:billing:invoice:7", eu, "MISDIRECTED", "MISDIRECTED writer is " + billingAddr},
		verdict{"app:auth:token:42", eu, "MISDIRECTED", "MISDIRECTED writer is " + authAddr},
		verdict{"nobody:1", eu, "UNKNOWN", "UNKNOWN"})
}

// move starts a move on a server that does not lead, which passes it on.
func (t *tale) move(ctx context.Context) error {
	follower, err := t.follower(ctx)
	if err != nil {
		return err
	}
	t.say("start the move of %s from %s to %s on %s, a follower", moved, auth, eu, follower)
	var m api.Move
	if err := t.change(ctx, follower, http.MethodPost, "/v1/moves", nil, api.StartMove{Prefix: moved, From: auth, To: eu,
		Mode: "assisted", WindowMS: 30_000, Reason: "demo"}, &m); err != nil {
		return err
	}
	if m.ID == "" || m.Prefix != moved || m.From != auth || m.To != eu {
		return fmt.Errorf("%s started another move: %+v", follower, m)
	}
	t.moveID = m.ID
	if err := t.servers.Wait(ctx, "the move to quiesce its scope", func(ctx context.Context) error {
		index, err := t.get(ctx, follower, "/v1/moves/"+m.ID, &m)
		if err == nil && m.Phase != "quiescing" {
			err = fmt.Errorf("move %s is %s, want quiescing", m.ID, m.Phase)
		}
		t.index = max(t.index, index)
		return err
	}); err != nil {
		return err
	}
	t.say("%s takes no writes now, and every server says so", moved)
	quiesced := "QUIESCED migrating to " + euAddr
	return t.verdicts(ctx,
		verdict{"app:auth:token:42", auth, "QUIESCED", quiesced},
		verdict{"app:auth:token:42", billing, "QUIESCED", quiesced},
		verdict{"app:billing:invoice:7", billing, "OWNED", "OK"})
}

// finish reports the slice as shipped and as complete, which flips the owner.
func (t *tale) finish(ctx context.Context) error {
	follower, err := t.follower(ctx)
	if err != nil {
		return err
	}
	slice := struct {
		Manifest api.Manifest `json:"manifest"`
	}{api.Manifest{Keys: 1200, Bytes: 1 << 20}}
	for _, verb := range []string{"shipped", "ready"} {
		if err := t.change(ctx, follower, http.MethodPost, "/v1/moves/"+t.moveID+"/"+verb, nil, slice, nil); err != nil {
			return err
		}
	}
	var m api.Move
	if _, err := t.get(ctx, follower, "/v1/moves/"+t.moveID, &m); err != nil {
		return err
	}
	if m.Phase != "done" || m.NewEpoch <= m.Epoch {
		return fmt.Errorf("move %s is %s with epoch %d after %d, want it done with a higher one", m.ID, m.Phase, m.NewEpoch, m.Epoch)
	}
	t.epoch = m.NewEpoch
	t.say("the slice is shipped and complete: the move is done, epoch %d -> %d, %d ms without writes", m.Epoch, m.NewEpoch, m.QuiescedMS)
	return t.afterMove(ctx)
}

// afterMove asks every server that runs for the scope that was moved.
func (t *tale) afterMove(ctx context.Context) error {
	for _, id := range t.running() {
		var sc api.Scope
		if _, err := t.get(ctx, id, "/v1/scope", &sc, "prefix", moved); err != nil {
			return err
		}
		if sc.Owner != eu || sc.Epoch != t.epoch {
			return fmt.Errorf("%s: %s belongs to %q since epoch %d, want %q and %d", id, moved, sc.Owner, sc.Epoch, eu, t.epoch)
		}
	}
	return t.verdicts(ctx,
		verdict{"app:auth:token:42", eu, "OWNED", "OK"},
		verdict{"app:auth:token:42", auth, "MISDIRECTED", "MISDIRECTED writer is " + euAddr})
}

// kill ends the leader without notice and goes on with the other two.
func (t *tale) kill(ctx context.Context) error {
	leader, err := t.servers.Leader(ctx)
	if err != nil {
		return err
	}
	t.killed = leader
	if err := t.servers.Kill(leader); err != nil {
		return err
	}
	t.say("kill -9 %s, the leader", leader)
	id := t.running()[0]
	requestID := strconv.FormatUint(t.index, 10) + "-00000000000000000000000000000001"
	var applied api.Applied
	// The same request id makes it safe to ask again until there is a leader.
	if err := t.servers.Wait(ctx, "a new leader to declare "+late, func(ctx context.Context) error {
		index, err := t.servers.Do(ctx, id, crash.Ask{Method: http.MethodPut, Path: "/v1/scope", Query: url.Values{"prefix": {late}},
			RequestID: requestID, Body: api.Declare{Writer: billing, Fallback: eu}}, &applied)
		if err == nil {
			t.index = max(t.index, index, applied.Index)
		}
		return err
	}); err != nil {
		return err
	}
	next, err := t.servers.Leader(ctx)
	if err != nil {
		return err
	}
	if next == leader || applied.Epoch <= t.epoch {
		return fmt.Errorf("leader %s, epoch %d after %d: want another leader and a higher epoch", next, applied.Epoch, t.epoch)
	}
	t.say("%s leads; %s is declared on %s with epoch %d, and both route as before", next, late, id, applied.Epoch)
	if err := t.afterMove(ctx); err != nil {
		return err
	}
	return t.verdicts(ctx, verdict{"app:orders:9", billing, "OWNED", "OK"})
}

// restart starts the killed server again, on the data it was killed with.
func (t *tale) restart(ctx context.Context) error {
	if err := t.servers.Start(t.killed); err != nil {
		return err
	}
	t.say("start %s again", t.killed)
	status, err := t.servers.WaitEqual(ctx)
	if err != nil {
		return err
	}
	t.say("it has caught up: equal state on all three")
	for _, m := range status.Members {
		if m.Index < t.index {
			return fmt.Errorf("%s is at index %d, and %d was answered before", m.ID, m.Index, t.index)
		}
		t.show("%s  %-8s  index %d  state %.16s…", m.ID, m.Role, m.Index, m.StateHash)
	}
	if err := t.afterMove(ctx); err != nil {
		return err
	}
	return t.verdicts(ctx, verdict{"app:orders:9", billing, "OWNED", "OK"}, verdict{"app:orders:9", eu, "MISDIRECTED", "MISDIRECTED writer is " + billingAddr})
}
