package main

import (
	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// place is where a child goes.
type place struct {
	folder    types.ManagedObjectReference
	pool      types.ManagedObjectReference
	datastore types.ManagedObjectReference
}

// targetOf is the place that the specification names, and the parent's own for what it leaves out.
func (v *vcenter) targetOf(source *simulator.VirtualMachine, spec *types.VirtualMachineInstantCloneSpec) place {
	found := place{folder: *source.Parent}
	if source.ResourcePool != nil {
		found.pool = *source.ResourcePool
	}
	if len(source.Datastore) > 0 {
		found.datastore = source.Datastore[0]
	}
	if spec.Location.Folder != nil {
		found.folder = *spec.Location.Folder
	}
	if spec.Location.Pool != nil {
		found.pool = *spec.Location.Pool
	}
	if spec.Location.Datastore != nil {
		found.datastore = *spec.Location.Datastore
	}
	return found
}

// checkClone finds what is wrong with a fork before anything is made: the same for the fork and for its rehearsal.
func (v *vcenter) checkClone(ctx *simulator.Context, source *simulator.VirtualMachine, spec *types.VirtualMachineInstantCloneSpec, target place) types.BaseMethodFault {
	if wrong := checkSpec(spec); wrong != nil {
		return wrong
	}
	host := v.hostOf(source)
	switch {
	case source.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn:
		return &types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerStatePoweredOn, ExistingState: source.Runtime.PowerState,
		}
	case host.Runtime.InMaintenanceMode:
		return new(types.InvalidState)
	case host.Runtime.ConnectionState != types.HostSystemConnectionStateConnected:
		return new(types.HostNotConnected)
	}
	folder, isFolder := v.registry.Get(target.folder).(*simulator.Folder)
	datastore, isDatastore := v.registry.Get(target.datastore).(*simulator.Datastore)
	if _, isPool := v.registry.Get(target.pool).(*simulator.ResourcePool); !isPool {
		return &types.ManagedObjectNotFound{Obj: target.pool}
	}
	if !isFolder {
		return &types.ManagedObjectNotFound{Obj: target.folder}
	}
	if !isDatastore {
		return &types.ManagedObjectNotFound{Obj: target.datastore}
	}
	var wrong types.BaseMethodFault
	ctx.WithLock(folder, func() {
		if there := v.registry.FindByName(spec.Name, folder.ChildEntity); there != nil {
			wrong = &types.DuplicateName{Name: spec.Name, Object: there.Reference()}
		}
	})
	if wrong != nil {
		return wrong
	}
	return checkRoom(ctx, host, datastore, source)
}

func checkRoom(ctx *simulator.Context, host *simulator.HostSystem, datastore *simulator.Datastore, source *simulator.VirtualMachine) types.BaseMethodFault {
	var wrong types.BaseMethodFault
	ctx.WithLock(datastore, func() {
		if datastore.Summary.FreeSpace < childBytes {
			wrong = &types.NoDiskSpace{Datastore: datastore.Name}
		}
	})
	ctx.WithLock(host, func() {
		left := host.Summary.Hardware.MemorySize>>20 - int64(host.Summary.QuickStats.OverallMemoryUsage)
		if needed := int64(source.Config.Hardware.MemoryMB); wrong == nil && left < needed {
			wrong = &types.InsufficientMemoryResourcesFault{
				InsufficientResourcesFault: types.InsufficientResourcesFault{}, Requested: needed << 20, Unreserved: left << 20,
			}
		}
	})
	return wrong
}

func checkSpec(spec *types.VirtualMachineInstantCloneSpec) types.BaseMethodFault {
	location := &spec.Location
	if spec.Name == "" {
		return &types.InvalidName{Name: spec.Name}
	}
	if spec.BiosUuid != "" {
		if _, err := uuid.Parse(spec.BiosUuid); err != nil {
			return &types.InvalidArgument{InvalidProperty: "spec.biosUuid"}
		}
	}
	// A fork runs where its parent runs, on disks that begin as its parent's.
	if location.Host != nil || len(location.Disk) > 0 || location.DiskMoveType != "" || len(location.Profile) > 0 {
		return new(types.NotSupported)
	}
	for _, change := range location.DeviceChange {
		edit := change.GetVirtualDeviceConfigSpec()
		if _, isNIC := edit.Device.(types.BaseVirtualEthernetCard); !isNIC || edit.Operation != types.VirtualDeviceConfigSpecOperationEdit {
			return new(types.NotSupported)
		}
	}
	return checkPorts(nil, location.DeviceChange)
}

// checkCalls is the provisioning checker, of which we answer one method.
type checkCalls struct {
	freeLock
	Self types.ManagedObjectReference
	v    *vcenter
}

func (c *checkCalls) Reference() types.ManagedObjectReference { return c.Self }

// CheckInstantCloneTask rehearses a fork; what is wrong stands in the result, because the check itself went well.
func (c *checkCalls) CheckInstantCloneTask(ctx *simulator.Context, req *types.CheckInstantClone_Task) soap.HasFault {
	body := new(methods.CheckInstantClone_TaskBody)
	vm := c.v.machine(req.Vm)
	if vm == nil {
		body.Fault_ = simulator.Fault("", &types.ManagedObjectNotFound{Obj: req.Vm})
		return body
	}
	task := c.v.tasks.start(ctx, vm, "CheckInstantClone_Task", func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		result := types.CheckResult{Vm: &vm.Self, Host: vm.Runtime.Host}
		if wrong := c.v.checkClone(ctx, vm, &req.Spec, c.v.targetOf(vm, &req.Spec)); wrong != nil {
			result.Error = []types.LocalizedMethodFault{{Fault: wrong, LocalizedMessage: describe(wrong)}}
		}
		return types.ArrayOfCheckResult{CheckResult: []types.CheckResult{result}}, nil
	})
	body.Res = &types.CheckInstantClone_TaskResponse{Returnval: task}
	return body
}
