package main

import (
	"reflect"
	"strconv"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// collect makes one page of updates; nil when there is nothing to say.
func (c *streamCalls) collect(ctx *simulator.Context, collector *simulator.PropertyCollector, own *stream, req *types.WaitForUpdatesEx) (*types.UpdateSet, types.BaseMethodFault) {
	if len(own.pending) == 0 {
		found, wrong := c.read(ctx, collector, own)
		if wrong != nil {
			return nil, wrong
		}
		own.pending = found
	}
	if len(own.pending) == 0 && req.Version != "" {
		return nil, nil
	}
	limit := pageLimit
	if req.Options != nil && req.Options.MaxObjectUpdates > 0 {
		limit = min(limit, int(req.Options.MaxObjectUpdates))
	}
	own.version++
	set := &types.UpdateSet{Version: strconv.Itoa(own.version)}
	set.FilterSet, own.pending = page(own.pending, limit)
	set.Truncated = types.NewBool(len(own.pending) > 0)
	return set, nil
}

func page(all []types.PropertyFilterUpdate, limit int) (first, rest []types.PropertyFilterUpdate) {
	for index, one := range all {
		if len(one.ObjectSet) > limit {
			cut := types.PropertyFilterUpdate{Filter: one.Filter, ObjectSet: one.ObjectSet[limit:]}
			one.ObjectSet = one.ObjectSet[:limit]
			return append(first, one), append([]types.PropertyFilterUpdate{cut}, all[index+1:]...)
		}
		limit -= len(one.ObjectSet)
		first = append(first, one)
	}
	return first, nil
}

// read what is dirty or new, filter by filter.
func (c *streamCalls) read(ctx *simulator.Context, collector *simulator.PropertyCollector, own *stream) ([]types.PropertyFilterUpdate, types.BaseMethodFault) {
	own.mutex.Lock()
	dirty := own.dirty
	own.dirty = map[types.ManagedObjectReference]bool{}
	own.mutex.Unlock()
	watched := map[types.ManagedObjectReference]bool{}
	var found []types.PropertyFilterUpdate
	for _, ref := range collector.Filter {
		filter, isFilter := ctx.Session.Get(ref).(*simulator.PropertyFilter)
		if !isFilter {
			continue
		}
		state := own.filters[ref]
		if state == nil {
			state = &filterState{sent: map[types.ManagedObjectReference]map[string]types.AnyType{}}
			own.filters[ref] = state
		}
		members, watch := c.members(fork(ctx), collector, &filter.Spec)
		for _, one := range watch {
			watched[one] = true
		}
		// Before the reading: what changes while we read is read again.
		own.watch(watched)
		updates, wrong := c.compare(ctx, collector, &filter.Spec, state, members, dirty)
		if wrong != nil {
			return nil, wrong
		}
		if len(updates) > 0 {
			found = append(found, types.PropertyFilterUpdate{Filter: ref, ObjectSet: updates})
		}
	}
	return found, nil
}

func (s *stream) watch(refs map[types.ManagedObjectReference]bool) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for ref := range refs {
		s.members[ref] = true
	}
}

// members are the objects that the filter selects now; watch are those and the views that they are found through.
func (c *streamCalls) members(ctx *simulator.Context, collector *simulator.PropertyCollector, spec *types.PropertyFilterSpec) (members, watch []types.ManagedObjectReference) {
	for _, object := range spec.ObjectSet {
		watch = append(watch, object.Obj)
		if object.SelectSet == nil || object.Skip == nil || !*object.Skip {
			members = append(members, object.Obj)
		}
		if object.SelectSet != nil {
			members = append(members, c.selected(ctx, collector, object)...)
		}
	}
	return members, append(watch, members...)
}

// selected follows a traversal: a view's by reading the view, any other as the simulator does.
func (c *streamCalls) selected(ctx *simulator.Context, collector *simulator.PropertyCollector, object types.ObjectSpec) []types.ManagedObjectReference {
	var view []types.ManagedObjectReference
	isView := false
	switch found := ctx.Session.Get(object.Obj).(type) {
	case *simulator.ListView:
		isView = true
		ctx.WithLock(found, func() { view = append(view, found.View...) })
	case *simulator.ContainerView:
		isView = true
		ctx.WithLock(found, func() { view = append(view, found.View...) })
	}
	if isView {
		return view
	}
	all := types.NewBool(false)
	kinds := []types.PropertySpec{}
	for _, kind := range []string{"ManagedEntity", "Task"} {
		kinds = append(kinds, types.PropertySpec{Type: kind, All: all, PathSet: []string{}})
	}
	body := collector.RetrievePropertiesEx(ctx, &types.RetrievePropertiesEx{
		This:    c.Self,
		SpecSet: []types.PropertyFilterSpec{{PropSet: kinds, ObjectSet: []types.ObjectSpec{object}}},
	})
	if answer, ok := body.(*methods.RetrievePropertiesExBody); ok && answer.Res != nil {
		for _, content := range answer.Res.Returnval.Objects {
			view = append(view, content.Obj)
		}
	}
	return view
}

// compare what is there now with what was sent.
func (c *streamCalls) compare(ctx *simulator.Context, collector *simulator.PropertyCollector, spec *types.PropertyFilterSpec, state *filterState, members []types.ManagedObjectReference, dirty map[types.ManagedObjectReference]bool) ([]types.ObjectUpdate, types.BaseMethodFault) {
	there := make(map[types.ManagedObjectReference]bool, len(members))
	var objects []types.ObjectSpec
	for _, ref := range members {
		if there[ref] {
			continue
		}
		there[ref] = true
		if _, known := state.sent[ref]; !known || dirty[ref] {
			objects = append(objects, types.ObjectSpec{Obj: ref})
		}
	}
	var updates []types.ObjectUpdate
	if len(objects) > 0 {
		contents, wrong := c.retrieve(ctx, collector, spec, objects)
		if wrong != nil {
			return nil, wrong
		}
		found := make(map[types.ManagedObjectReference]bool, len(contents))
		for _, content := range contents {
			found[content.Obj] = true
			if update := state.update(content); update != nil {
				updates = append(updates, *update)
			}
		}
		for _, object := range objects {
			if !found[object.Obj] {
				delete(there, object.Obj)
			}
		}
	}
	for ref := range state.sent {
		if !there[ref] {
			delete(state.sent, ref)
			updates = append(updates, types.ObjectUpdate{Kind: types.ObjectUpdateKindLeave, Obj: ref})
		}
	}
	return updates, nil
}

func (c *streamCalls) retrieve(ctx *simulator.Context, collector *simulator.PropertyCollector, spec *types.PropertyFilterSpec, objects []types.ObjectSpec) ([]types.ObjectContent, types.BaseMethodFault) {
	present := objects[:0:0]
	for _, object := range objects {
		// One that is gone would fail the whole call.
		if ctx.Session.Get(object.Obj) != nil {
			present = append(present, object)
		}
	}
	body := collector.RetrievePropertiesEx(fork(ctx), &types.RetrievePropertiesEx{
		This: c.Self,
		SpecSet: []types.PropertyFilterSpec{{
			PropSet: spec.PropSet, ObjectSet: present, ReportMissingObjectsInResults: types.NewBool(true),
		}},
	})
	answer := body.(*methods.RetrievePropertiesExBody)
	if answer.Fault_ != nil {
		wrong, _ := answer.Fault_.VimFault().(types.BaseMethodFault)
		return nil, wrong
	}
	c.v.hideConfig(answer.Res.Returnval.Objects)
	return answer.Res.Returnval.Objects, nil
}

// update is what the client does not know yet of one object; nil when it knows all.
func (f *filterState) update(content types.ObjectContent) *types.ObjectUpdate {
	known, seen := f.sent[content.Obj]
	fresh := make(map[string]types.AnyType, len(content.PropSet))
	update := &types.ObjectUpdate{Kind: types.ObjectUpdateKindModify, Obj: content.Obj}
	for _, property := range content.PropSet {
		fresh[property.Name] = property.Val
		if old, had := known[property.Name]; !had || !reflect.DeepEqual(old, property.Val) {
			change := types.PropertyChange{Name: property.Name, Op: types.PropertyChangeOpAssign, Val: property.Val}
			update.ChangeSet = append(update.ChangeSet, change)
		}
	}
	for name := range known {
		if _, still := fresh[name]; !still {
			change := types.PropertyChange{Name: name, Op: types.PropertyChangeOpIndirectRemove}
			update.ChangeSet = append(update.ChangeSet, change)
		}
	}
	f.sent[content.Obj] = fresh
	if !seen {
		update.Kind = types.ObjectUpdateKindEnter
	} else if len(update.ChangeSet) == 0 {
		return nil
	}
	return update
}
