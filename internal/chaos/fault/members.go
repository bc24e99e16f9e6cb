package fault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/chaos/target"
	"github.com/scope-registry/scope-registry/internal/direct"
)

// changeTime bounds a join or a removal.
const changeTime = time.Minute

// onMembers are changes of the servers.
func onMembers() []Fault {
	return []Fault{{Name: history.Members, do: joinAndLeave, possible: func(t target.Target) bool {
		_, ok := t.(target.Growing)
		return ok
	}}}
}

// transferTo asks for another leader, of one server after the other.
func (e *Env) transferTo(ctx context.Context, to string) error {
	return e.anyServer(ctx, direct.Request{Method: http.MethodPost, Path: "/v1/cluster/transfer", Body: map[string]string{"to": to}}, nil)
}

// anyServer asks one server after the other until one does it.
func (e *Env) anyServer(ctx context.Context, r direct.Request, out any) error {
	ctx, cancel := context.WithTimeout(ctx, changeTime)
	defer cancel()
	for {
		var last error
		for _, s := range e.Servers {
			_, err := s.Do(ctx, r, out)
			if err == nil {
				return nil
			}
			last = err
		}
		if err := pause(ctx, pollEvery); err != nil {
			return fmt.Errorf("%s %s: %w", r.Method, r.Path, last)
		}
	}
}

// joinAndLeave brings a fourth server in, and takes it out again. Its id is one that
// was never used.
func joinAndLeave(ctx context.Context, s *strike) error {
	growing, _ := s.Target.(target.Growing)
	id := fmt.Sprintf("x%d", s.Now().Milliseconds())
	s.rec.Servers = []string{id}
	s.begins("%s joins", id)
	peer, err := growing.Add(ctx, id)
	if err != nil {
		return err
	}
	err = s.join(ctx, id, peer)
	if err == nil {
		err = errors.Join(s.inspect(ctx, s.rec.During, id), s.lasts(ctx))
	}
	s.heals()
	leaving := s.anyServer(ctx, direct.Request{Method: http.MethodDelete, Path: "/v1/cluster/members/" + url.PathEscape(id)}, nil)
	return errors.Join(err, leaving, growing.Remove(id))
}

// join asks for a server until it is taken, as it has to ask around first, and waits until it votes.
func (s *strike) join(ctx context.Context, id, peer string) error {
	if err := s.anyServer(ctx, direct.Request{Method: http.MethodPost, Path: "/v1/cluster/members", Body: map[string]string{"id": id, "addr": peer}}, nil); err != nil {
		return err
	}
	return s.wait(ctx, changeTime, func(ctx context.Context) error {
		var c api.Cluster
		if err := s.anyServer(ctx, direct.Get("/v1/cluster"), &c); err != nil {
			return err
		}
		voters := 0
		for _, m := range c.Members {
			if m.Voter {
				voters++
			}
		}
		s.rec.Voters = max(s.rec.Voters, voters)
		if c.Change != nil || voters <= len(s.Servers) {
			return fmt.Errorf("%d servers vote", voters)
		}
		s.rec.Active = s.Now()
		s.Say("%s: %d servers vote", s.rec.Name, voters)
		return nil
	})
}
