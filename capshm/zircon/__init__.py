"""Zircon's calls on address spaces, VMOs, handles and channels, in emulated processes that are real ones.

    vmar, address = zx.vmar_allocate(zx.vmar_root_self(), zx.VM_CAN_MAP_READ | zx.VM_CAN_MAP_WRITE, 0, 1 << 20)

Names are Zircon's without `zx_` and `ZX_`. A refused call raises `ZxError`, with Zircon's status and the check that
refused. The rules are those of Zircon since RFC-0199; Machine(vmar_errors="rfc") has the errors of the RFC's own text.
The address space is the one of `capshm.cheribsd`: its root VMAR is the arena, and what mmap has reserved is seen in it
as regions without handles.
"""

from capshm.errors import ZxError as ZxError
from capshm.model.zircon_constants import (
    CHANNEL_MAX_MSG_BYTES as CHANNEL_MAX_MSG_BYTES,
)
from capshm.model.zircon_constants import (
    CHANNEL_MAX_MSG_HANDLES as CHANNEL_MAX_MSG_HANDLES,
)
from capshm.model.zircon_constants import (
    DEFAULT_PROCESS_RIGHTS as DEFAULT_PROCESS_RIGHTS,
)
from capshm.model.zircon_constants import (
    DEFAULT_VMAR_RIGHTS as DEFAULT_VMAR_RIGHTS,
)
from capshm.model.zircon_constants import (
    DEFAULT_VMO_RIGHTS as DEFAULT_VMO_RIGHTS,
)
from capshm.model.zircon_constants import (
    ERR_ACCESS_DENIED as ERR_ACCESS_DENIED,
)
from capshm.model.zircon_constants import (
    ERR_ALREADY_EXISTS as ERR_ALREADY_EXISTS,
)
from capshm.model.zircon_constants import (
    ERR_BAD_HANDLE as ERR_BAD_HANDLE,
)
from capshm.model.zircon_constants import (
    ERR_BAD_STATE as ERR_BAD_STATE,
)
from capshm.model.zircon_constants import (
    ERR_BUFFER_TOO_SMALL as ERR_BUFFER_TOO_SMALL,
)
from capshm.model.zircon_constants import (
    ERR_INTERNAL as ERR_INTERNAL,
)
from capshm.model.zircon_constants import (
    ERR_INVALID_ARGS as ERR_INVALID_ARGS,
)
from capshm.model.zircon_constants import (
    ERR_NO_MEMORY as ERR_NO_MEMORY,
)
from capshm.model.zircon_constants import (
    ERR_NO_RESOURCES as ERR_NO_RESOURCES,
)
from capshm.model.zircon_constants import (
    ERR_NOT_FOUND as ERR_NOT_FOUND,
)
from capshm.model.zircon_constants import (
    ERR_NOT_SUPPORTED as ERR_NOT_SUPPORTED,
)
from capshm.model.zircon_constants import (
    ERR_OUT_OF_RANGE as ERR_OUT_OF_RANGE,
)
from capshm.model.zircon_constants import (
    ERR_PEER_CLOSED as ERR_PEER_CLOSED,
)
from capshm.model.zircon_constants import (
    ERR_SHOULD_WAIT as ERR_SHOULD_WAIT,
)
from capshm.model.zircon_constants import (
    ERR_UNAVAILABLE as ERR_UNAVAILABLE,
)
from capshm.model.zircon_constants import (
    ERR_WRONG_TYPE as ERR_WRONG_TYPE,
)
from capshm.model.zircon_constants import (
    HANDLE_INVALID as HANDLE_INVALID,
)
from capshm.model.zircon_constants import (
    HANDLE_OP_DUPLICATE as HANDLE_OP_DUPLICATE,
)
from capshm.model.zircon_constants import (
    HANDLE_OP_MOVE as HANDLE_OP_MOVE,
)
from capshm.model.zircon_constants import (
    INFO_HANDLE_BASIC as INFO_HANDLE_BASIC,
)
from capshm.model.zircon_constants import (
    INFO_HANDLE_VALID as INFO_HANDLE_VALID,
)
from capshm.model.zircon_constants import (
    INFO_MAPS_TYPE_ASPACE as INFO_MAPS_TYPE_ASPACE,
)
from capshm.model.zircon_constants import (
    INFO_MAPS_TYPE_MAPPING as INFO_MAPS_TYPE_MAPPING,
)
from capshm.model.zircon_constants import (
    INFO_MAPS_TYPE_NONE as INFO_MAPS_TYPE_NONE,
)
from capshm.model.zircon_constants import (
    INFO_MAPS_TYPE_VMAR as INFO_MAPS_TYPE_VMAR,
)
from capshm.model.zircon_constants import (
    INFO_PROCESS_MAPS as INFO_PROCESS_MAPS,
)
from capshm.model.zircon_constants import (
    INFO_VMAR as INFO_VMAR,
)
from capshm.model.zircon_constants import (
    INFO_VMAR_MAPS as INFO_VMAR_MAPS,
)
from capshm.model.zircon_constants import (
    INFO_VMO as INFO_VMO,
)
from capshm.model.zircon_constants import (
    OBJ_TYPE_CHANNEL as OBJ_TYPE_CHANNEL,
)
from capshm.model.zircon_constants import (
    OBJ_TYPE_NONE as OBJ_TYPE_NONE,
)
from capshm.model.zircon_constants import (
    OBJ_TYPE_PROCESS as OBJ_TYPE_PROCESS,
)
from capshm.model.zircon_constants import (
    OBJ_TYPE_VMAR as OBJ_TYPE_VMAR,
)
from capshm.model.zircon_constants import (
    OBJ_TYPE_VMO as OBJ_TYPE_VMO,
)
from capshm.model.zircon_constants import (
    OK as OK,
)
from capshm.model.zircon_constants import (
    RIGHT_CAP as RIGHT_CAP,
)
from capshm.model.zircon_constants import (
    RIGHT_DESTROY as RIGHT_DESTROY,
)
from capshm.model.zircon_constants import (
    RIGHT_DUPLICATE as RIGHT_DUPLICATE,
)
from capshm.model.zircon_constants import (
    RIGHT_ENUMERATE as RIGHT_ENUMERATE,
)
from capshm.model.zircon_constants import (
    RIGHT_EXECUTE as RIGHT_EXECUTE,
)
from capshm.model.zircon_constants import (
    RIGHT_GET_PROPERTY as RIGHT_GET_PROPERTY,
)
from capshm.model.zircon_constants import (
    RIGHT_INSPECT as RIGHT_INSPECT,
)
from capshm.model.zircon_constants import (
    RIGHT_MANAGE_JOB as RIGHT_MANAGE_JOB,
)
from capshm.model.zircon_constants import (
    RIGHT_MANAGE_PROCESS as RIGHT_MANAGE_PROCESS,
)
from capshm.model.zircon_constants import (
    RIGHT_MANAGE_THREAD as RIGHT_MANAGE_THREAD,
)
from capshm.model.zircon_constants import (
    RIGHT_MAP as RIGHT_MAP,
)
from capshm.model.zircon_constants import (
    RIGHT_NONE as RIGHT_NONE,
)
from capshm.model.zircon_constants import (
    RIGHT_OP_CHILDREN as RIGHT_OP_CHILDREN,
)
from capshm.model.zircon_constants import (
    RIGHT_READ as RIGHT_READ,
)
from capshm.model.zircon_constants import (
    RIGHT_RESIZE as RIGHT_RESIZE,
)
from capshm.model.zircon_constants import (
    RIGHT_SAME_RIGHTS as RIGHT_SAME_RIGHTS,
)
from capshm.model.zircon_constants import (
    RIGHT_SET_PROPERTY as RIGHT_SET_PROPERTY,
)
from capshm.model.zircon_constants import (
    RIGHT_SIGNAL as RIGHT_SIGNAL,
)
from capshm.model.zircon_constants import (
    RIGHT_SIGNAL_PEER as RIGHT_SIGNAL_PEER,
)
from capshm.model.zircon_constants import (
    RIGHT_TRANSFER as RIGHT_TRANSFER,
)
from capshm.model.zircon_constants import (
    RIGHT_WAIT as RIGHT_WAIT,
)
from capshm.model.zircon_constants import (
    RIGHT_WRITE as RIGHT_WRITE,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_1GB as VM_ALIGN_1GB,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_1KB as VM_ALIGN_1KB,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_1MB as VM_ALIGN_1MB,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_2GB as VM_ALIGN_2GB,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_2KB as VM_ALIGN_2KB,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_2MB as VM_ALIGN_2MB,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_4GB as VM_ALIGN_4GB,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_4KB as VM_ALIGN_4KB,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_4MB as VM_ALIGN_4MB,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_8KB as VM_ALIGN_8KB,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_8MB as VM_ALIGN_8MB,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_16KB as VM_ALIGN_16KB,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_16MB as VM_ALIGN_16MB,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_32KB as VM_ALIGN_32KB,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_32MB as VM_ALIGN_32MB,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_64KB as VM_ALIGN_64KB,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_64MB as VM_ALIGN_64MB,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_128KB as VM_ALIGN_128KB,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_128MB as VM_ALIGN_128MB,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_256KB as VM_ALIGN_256KB,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_256MB as VM_ALIGN_256MB,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_512KB as VM_ALIGN_512KB,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_512MB as VM_ALIGN_512MB,
)
from capshm.model.zircon_constants import (
    VM_ALIGN_BASE as VM_ALIGN_BASE,
)
from capshm.model.zircon_constants import (
    VM_ALLOW_FAULTS as VM_ALLOW_FAULTS,
)
from capshm.model.zircon_constants import (
    VM_CAN_MAP_CAP as VM_CAN_MAP_CAP,
)
from capshm.model.zircon_constants import (
    VM_CAN_MAP_EXECUTE as VM_CAN_MAP_EXECUTE,
)
from capshm.model.zircon_constants import (
    VM_CAN_MAP_READ as VM_CAN_MAP_READ,
)
from capshm.model.zircon_constants import (
    VM_CAN_MAP_SPECIFIC as VM_CAN_MAP_SPECIFIC,
)
from capshm.model.zircon_constants import (
    VM_CAN_MAP_WRITE as VM_CAN_MAP_WRITE,
)
from capshm.model.zircon_constants import (
    VM_COMPACT as VM_COMPACT,
)
from capshm.model.zircon_constants import (
    VM_FAULT_BEYOND_STREAM_SIZE as VM_FAULT_BEYOND_STREAM_SIZE,
)
from capshm.model.zircon_constants import (
    VM_MAP_RANGE as VM_MAP_RANGE,
)
from capshm.model.zircon_constants import (
    VM_OFFSET_IS_UPPER_LIMIT as VM_OFFSET_IS_UPPER_LIMIT,
)
from capshm.model.zircon_constants import (
    VM_PERM_CAP as VM_PERM_CAP,
)
from capshm.model.zircon_constants import (
    VM_PERM_EXECUTE as VM_PERM_EXECUTE,
)
from capshm.model.zircon_constants import (
    VM_PERM_READ as VM_PERM_READ,
)
from capshm.model.zircon_constants import (
    VM_PERM_READ_IF_XOM_UNSUPPORTED as VM_PERM_READ_IF_XOM_UNSUPPORTED,
)
from capshm.model.zircon_constants import (
    VM_PERM_WRITE as VM_PERM_WRITE,
)
from capshm.model.zircon_constants import (
    VM_REQUIRE_NON_RESIZABLE as VM_REQUIRE_NON_RESIZABLE,
)
from capshm.model.zircon_constants import (
    VM_SPECIFIC as VM_SPECIFIC,
)
from capshm.model.zircon_constants import (
    VM_SPECIFIC_OVERWRITE as VM_SPECIFIC_OVERWRITE,
)
from capshm.model.zircon_constants import (
    VMAR_OP_ALWAYS_NEED as VMAR_OP_ALWAYS_NEED,
)
from capshm.model.zircon_constants import (
    VMAR_OP_COMMIT as VMAR_OP_COMMIT,
)
from capshm.model.zircon_constants import (
    VMAR_OP_DECOMMIT as VMAR_OP_DECOMMIT,
)
from capshm.model.zircon_constants import (
    VMAR_OP_DONT_NEED as VMAR_OP_DONT_NEED,
)
from capshm.model.zircon_constants import (
    VMAR_OP_MAP_RANGE as VMAR_OP_MAP_RANGE,
)
from capshm.model.zircon_constants import (
    VMAR_OP_PREFETCH as VMAR_OP_PREFETCH,
)
from capshm.model.zircon_constants import (
    VMAR_OP_ZERO as VMAR_OP_ZERO,
)
from capshm.model.zircon_constants import (
    VMO_CAP as VMO_CAP,
)
from capshm.model.zircon_constants import (
    VMO_CHILD_NO_WRITE as VMO_CHILD_NO_WRITE,
)
from capshm.model.zircon_constants import (
    VMO_CHILD_RESIZABLE as VMO_CHILD_RESIZABLE,
)
from capshm.model.zircon_constants import (
    VMO_CHILD_SNAPSHOT as VMO_CHILD_SNAPSHOT,
)
from capshm.model.zircon_constants import (
    VMO_CHILD_SNAPSHOT_AT_LEAST_ON_WRITE as VMO_CHILD_SNAPSHOT_AT_LEAST_ON_WRITE,
)
from capshm.model.zircon_constants import (
    VMO_DISCARDABLE as VMO_DISCARDABLE,
)
from capshm.model.zircon_constants import (
    VMO_OP_ALWAYS_NEED as VMO_OP_ALWAYS_NEED,
)
from capshm.model.zircon_constants import (
    VMO_OP_COMMIT as VMO_OP_COMMIT,
)
from capshm.model.zircon_constants import (
    VMO_OP_DECOMMIT as VMO_OP_DECOMMIT,
)
from capshm.model.zircon_constants import (
    VMO_OP_DONT_NEED as VMO_OP_DONT_NEED,
)
from capshm.model.zircon_constants import (
    VMO_OP_PREFETCH as VMO_OP_PREFETCH,
)
from capshm.model.zircon_constants import (
    VMO_OP_ZERO as VMO_OP_ZERO,
)
from capshm.model.zircon_constants import (
    VMO_RESIZABLE as VMO_RESIZABLE,
)
from capshm.model.zircon_constants import (
    VMO_SHARE_CAP as VMO_SHARE_CAP,
)
from capshm.zircon.channels import (
    Disposition as Disposition,
)
from capshm.zircon.channels import (
    channel_create as channel_create,
)
from capshm.zircon.channels import (
    channel_read as channel_read,
)
from capshm.zircon.channels import (
    channel_write as channel_write,
)
from capshm.zircon.channels import (
    channel_write_etc as channel_write_etc,
)
from capshm.zircon.handles import (
    Handle as Handle,
)
from capshm.zircon.handles import (
    HandleBasic as HandleBasic,
)
from capshm.zircon.handles import (
    MapsEntry as MapsEntry,
)
from capshm.zircon.handles import (
    VmarInfo as VmarInfo,
)
from capshm.zircon.handles import (
    VmoInfo as VmoInfo,
)
from capshm.zircon.handles import (
    handle_check_valid as handle_check_valid,
)
from capshm.zircon.handles import (
    handle_close as handle_close,
)
from capshm.zircon.handles import (
    handle_duplicate as handle_duplicate,
)
from capshm.zircon.handles import (
    handle_replace as handle_replace,
)
from capshm.zircon.handles import (
    object_get_info as object_get_info,
)
from capshm.zircon.handles import (
    process_self as process_self,
)
from capshm.zircon.probe import (
    probe_read as probe_read,
)
from capshm.zircon.probe import (
    probe_write as probe_write,
)
from capshm.zircon.vmars import (
    vmar_allocate as vmar_allocate,
)
from capshm.zircon.vmars import (
    vmar_capability as vmar_capability,
)
from capshm.zircon.vmars import (
    vmar_destroy as vmar_destroy,
)
from capshm.zircon.vmars import (
    vmar_map as vmar_map,
)
from capshm.zircon.vmars import (
    vmar_op_range as vmar_op_range,
)
from capshm.zircon.vmars import (
    vmar_protect as vmar_protect,
)
from capshm.zircon.vmars import (
    vmar_root_self as vmar_root_self,
)
from capshm.zircon.vmars import (
    vmar_unmap as vmar_unmap,
)
from capshm.zircon.vmos import (
    process_read_memory as process_read_memory,
)
from capshm.zircon.vmos import (
    process_write_memory as process_write_memory,
)
from capshm.zircon.vmos import (
    vmo_create as vmo_create,
)
from capshm.zircon.vmos import (
    vmo_create_child as vmo_create_child,
)
from capshm.zircon.vmos import (
    vmo_get_size as vmo_get_size,
)
from capshm.zircon.vmos import (
    vmo_get_stream_size as vmo_get_stream_size,
)
from capshm.zircon.vmos import (
    vmo_op_range as vmo_op_range,
)
from capshm.zircon.vmos import (
    vmo_read as vmo_read,
)
from capshm.zircon.vmos import (
    vmo_replace_as_executable as vmo_replace_as_executable,
)
from capshm.zircon.vmos import (
    vmo_set_size as vmo_set_size,
)
from capshm.zircon.vmos import (
    vmo_set_stream_size as vmo_set_stream_size,
)
from capshm.zircon.vmos import (
    vmo_write as vmo_write,
)
