package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/crash"
)

// equalTime bounds the wait for three equal states when nothing is under way.
const equalTime = 60 * time.Second

// unclean matches a line of a server's log that no start after a SIGKILL may give.
var unclean = regexp.MustCompile(`(?i)corrupt|set aside|damaged|panic|fatal|contradict`)

// installed is in a line of a server's log that tells of a snapshot that another server sent.
const installed = "Installed remote snapshot"

// check compares every server with what was acknowledged, when nothing is under way
// and every server has become ready. It returns the status of three equal states.
func (s *starts) check(ctx context.Context) (api.Cluster, error) {
	s.l.gate.Lock()
	defer s.l.gate.Unlock()
	s.wait()
	if err := s.logs(); err != nil || len(s.l.findings()) > 0 {
		return api.Cluster{}, err
	}
	waiting, cancel := context.WithTimeout(ctx, equalTime)
	defer cancel()
	status, err := s.l.c.WaitEqual(waiting)
	if err != nil {
		if ctx.Err() != nil {
			return status, err
		}
		s.l.find(ruleStates, "%v", err)
		return status, nil
	}
	for _, id := range s.l.c.IDs() {
		have, err := scopes(ctx, s.l.c, id)
		if err != nil {
			return status, fmt.Errorf("scopes of %s: %w", id, err)
		}
		var list struct {
			Nodes []api.NodeState `json:"nodes"`
		}
		if _, err := s.l.c.Get(ctx, id, "/v1/nodes", &list, "consistency", "local"); err != nil {
			return status, fmt.Errorf("nodes of %s: %w", id, err)
		}
		s.l.judge(id, have, list.Nodes)
	}
	return status, nil
}

// logs looks for lines that tell of damage, and counts snapshots from other servers.
func (s *starts) logs() error {
	s.tally.installed = 0
	for _, id := range s.l.c.IDs() {
		f, err := os.Open(s.l.c.Log(id))
		if err != nil {
			return err
		}
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if unclean.Match(lines.Bytes()) {
				s.l.find(ruleClean, "%s logged: %.400s", id, lines.Text())
			}
			if strings.Contains(lines.Text(), installed) {
				s.tally.installed++
			}
		}
		if err := lines.Err(); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// scopes is every scope that a server has in its own state.
func scopes(ctx context.Context, c *crash.Cluster, id string) (map[string]api.Scope, error) {
	all := map[string]api.Scope{}
	after := ""
	for {
		var page struct {
			Scopes []api.Scope `json:"scopes"`
			Next   string      `json:"next"`
		}
		pairs := []string{"consistency", "local", "limit", "10000"}
		if after != "" {
			pairs = append(pairs, "after", after)
		}
		if _, err := c.Get(ctx, id, "/v1/scopes", &page, pairs...); err != nil {
			return nil, err
		}
		for _, sc := range page.Scopes {
			all[sc.Prefix] = sc
		}
		if page.Next == "" {
			return all, nil
		}
		if page.Next <= after {
			return nil, fmt.Errorf("page after %q ends at %q", after, page.Next)
		}
		after = page.Next
	}
}
