package main

import (
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// streamCalls are the methods of a property collector that we answer in the simulator's place.
type streamCalls struct {
	freeLock
	Self types.ManagedObjectReference
	v    *vcenter
}

func (c *streamCalls) Reference() types.ManagedObjectReference { return c.Self }

func (c *streamCalls) collector(ctx *simulator.Context) *simulator.PropertyCollector {
	found, _ := ctx.Session.Get(c.Self).(*simulator.PropertyCollector)
	return found
}

// CancelWaitForUpdates ends the wait that is going on.
func (c *streamCalls) CancelWaitForUpdates(ctx *simulator.Context, _ *types.CancelWaitForUpdates) soap.HasFault {
	select {
	case c.v.streams.open(streamKey(ctx, c.Self)).cancel <- struct{}{}:
	default:
	}
	return &methods.CancelWaitForUpdatesBody{Res: new(types.CancelWaitForUpdatesResponse)}
}

// DestroyPropertyCollector ends its stream too.
func (c *streamCalls) DestroyPropertyCollector(ctx *simulator.Context, req *types.DestroyPropertyCollector) soap.HasFault {
	collector := c.collector(ctx)
	if collector == nil {
		return &methods.DestroyPropertyCollectorBody{Fault_: simulator.Fault("", &types.ManagedObjectNotFound{Obj: c.Self})}
	}
	c.v.streams.close(streamKey(ctx, c.Self))
	return collector.DestroyPropertyCollector(ctx, req)
}

// WaitForUpdatesEx gives what has changed since the last answer, all when there was none.
func (c *streamCalls) WaitForUpdatesEx(ctx *simulator.Context, req *types.WaitForUpdatesEx) soap.HasFault {
	body := new(methods.WaitForUpdatesExBody)
	collector := c.collector(ctx)
	if collector == nil {
		body.Fault_ = simulator.Fault("", &types.ManagedObjectNotFound{Obj: c.Self})
		return body
	}
	own := c.v.streams.open(streamKey(ctx, c.Self))
	own.calling.Lock()
	defer own.calling.Unlock()
	if req.Version == "" {
		own.filters, own.pending = map[types.ManagedObjectReference]*filterState{}, nil
	}
	body.Res = new(types.WaitForUpdatesExResponse)
	var limit <-chan time.Time
	once := false
	if req.Options != nil && req.Options.MaxWaitSeconds != nil {
		once = *req.Options.MaxWaitSeconds == 0
		limit = time.After(time.Duration(*req.Options.MaxWaitSeconds) * time.Second)
	}
	for {
		if found, wrong := c.collect(ctx, collector, own, req); wrong != nil {
			return &methods.WaitForUpdatesExBody{Fault_: simulator.Fault("", wrong)}
		} else if found != nil || once {
			body.Res.Returnval = found
			return body
		}
		select {
		case <-own.wake:
			time.Sleep(settle)
		case <-limit:
			return body
		case <-own.cancel:
			return &methods.WaitForUpdatesExBody{Fault_: simulator.Fault("", new(types.RequestCanceled))}
		case <-own.ended:
			return &methods.WaitForUpdatesExBody{Fault_: simulator.Fault("", new(types.NotAuthenticated))}
		}
	}
}

// WaitForUpdates is the old name of waiting without an end; pyVmomi's WaitForTask still uses it.
func (c *streamCalls) WaitForUpdates(ctx *simulator.Context, req *types.WaitForUpdates) soap.HasFault {
	body := new(methods.WaitForUpdatesBody)
	found := c.WaitForUpdatesEx(ctx, &types.WaitForUpdatesEx{This: req.This, Version: req.Version}).(*methods.WaitForUpdatesExBody)
	if body.Fault_ = found.Fault_; body.Fault_ == nil {
		body.Res = &types.WaitForUpdatesResponse{Returnval: *found.Res.Returnval}
	}
	return body
}

// streamKey tells the sessions' own first property collectors apart, which all have one reference.
func streamKey(ctx *simulator.Context, ref types.ManagedObjectReference) types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: ref.Type, Value: ctx.Session.Key + "/" + ref.Value}
}
