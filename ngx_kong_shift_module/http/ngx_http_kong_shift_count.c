
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"
