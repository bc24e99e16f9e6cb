package httpapi

import (
	"context"
	"net/http"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
)

func (s *server) clusterRoutes() {
	register(s, "clusterStatus", http.MethodGet, "/v1/cluster", "The cluster and its servers", s.clusterStatus)
	register(s, "joinServer", http.MethodPost, "/v1/cluster/members", "Bring in a server, or give one another address", s.joinServer)
	register(s, "removeServer", http.MethodDelete, "/v1/cluster/members/{id}", "Remove a server for good", s.removeServer)
	register(s, "transferLeader", http.MethodPost, "/v1/cluster/transfer", "Make another server the leader", s.transferLeader)
}

type clusterInput struct {
	Hash bool `query:"hash" doc:"Also hash every server's state, which takes time"`
}

type clusterOutput struct{ Body api.Cluster }

func (s *server) clusterStatus(ctx context.Context, in *clusterInput) (*clusterOutput, error) {
	c, err := s.reg.Status(ctx, in.Hash)
	if err != nil {
		return nil, err
	}
	if c.Members == nil {
		c.Members = []api.Member{}
	}
	s.answeredAt(ctx, c.Index)
	return &clusterOutput{c}, nil
}

type joinInput struct {
	Mutation
	Body struct {
		ID   string `json:"id" doc:"Id the server was started with"`
		Addr string `json:"addr" doc:"host:port that the other servers dial"`
	}
}

type serverOutput struct{ Body api.ServerChange }

// joinServer answers when the join is on record. It goes on by itself: the status of the cluster shows how far it is.
func (s *server) joinServer(ctx context.Context, in *joinInput) (*serverOutput, error) {
	if err := checkNode("id", in.Body.ID); err != nil {
		return nil, err
	}
	by, err := envelope(ctx, in.Mutation, nil)
	if err != nil {
		return nil, err
	}
	ctx, cancel := in.bound(ctx)
	defer cancel()
	if err := s.confirm(ctx, access.JoinServer); err != nil {
		return nil, err
	}
	change, err := s.reg.Join(ctx, by, in.Body.ID, in.Body.Addr)
	if err != nil {
		return nil, err
	}
	return &serverOutput{change}, nil
}

type removeServerInput struct {
	Mutation
	ID               string `path:"id"`
	AcceptNoMajority bool   `query:"accept_no_majority" doc:"Although the voters that stay and are up are no majority"`
}

// removeServer answers when the server has left.
func (s *server) removeServer(ctx context.Context, in *removeServerInput) (*serverOutput, error) {
	if err := checkNode("id", in.ID); err != nil {
		return nil, err
	}
	by, err := envelope(ctx, in.Mutation, nil)
	if err != nil {
		return nil, err
	}
	ctx, cancel := in.bound(ctx)
	defer cancel()
	if err := s.confirm(ctx, access.RemoveServer); err != nil {
		return nil, err
	}
	change, err := s.reg.Remove(ctx, by, in.ID, in.AcceptNoMajority)
	if err != nil {
		return nil, err
	}
	return &serverOutput{change}, nil
}

type transferInput struct {
	Mutation
	Body *struct {
		To string `json:"to,omitempty" doc:"Server id; any if empty"`
	}
}

func (s *server) transferLeader(ctx context.Context, in *transferInput) (*appliedBody, error) {
	to := ""
	if in.Body != nil {
		to = in.Body.To
	}
	if err := checkNodes("to", to); err != nil {
		return nil, err
	}
	ctx, cancel := in.bound(ctx)
	defer cancel()
	if err := s.confirm(ctx, access.TransferLeader); err != nil {
		return nil, err
	}
	if err := s.reg.Transfer(ctx, to); err != nil {
		return nil, err
	}
	return &appliedBody{api.Applied{Index: s.reg.State().Index()}}, nil
}
