"use strict";
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  displayOperationId: false,
  // Otherwise the document would be sent to a validator on the internet.
  validatorUrl: null,
});
