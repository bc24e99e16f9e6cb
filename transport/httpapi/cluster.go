package httpapi

import (
	"context"
	"net/http"

	"github.com/scope-registry/scope-registry/internal/api"
)

func (s *server) clusterRoutes() {
	register(s, "clusterStatus", http.MethodGet, "/v1/cluster", "The cluster and its servers", s.clusterStatus)
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
	if err := s.reg.Transfer(ctx, to); err != nil {
		return nil, err
	}
	return &appliedBody{api.Applied{Index: s.reg.State().Index()}}, nil
}
